import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
import ray

from rayrlhf.errors import ClusterAccessError, ClusterAwayError
from rayrlhf.jobs.submit_dashboard import Dashboard
from tests.ports import free_port


@pytest.fixture
def shell(tmp_path, monkeypatch):
    """A shell without any token, whose own cluster is elsewhere."""
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:1")
    monkeypatch.setenv("HOME", str(tmp_path))
    return monkeypatch


@pytest.fixture
def server(shell):
    """Something that listens, and answers what the test says."""
    said = {"status": 200, "body": "", "asked": []}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            said["asked"].append(self.headers.get("Authorization"))
            self.send_response(said["status"])
            self.end_headers()
            self.wfile.write(said["body"].encode())

        def log_message(self, *_):
            pass

    http = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    said["address"] = f"http://127.0.0.1:{http.server_port}"
    yield said
    http.shutdown()
    http.server_close()


def test_a_missing_token_is_said_with_what_to_set(server):
    server["status"] = 401
    with pytest.raises(
        ClusterAccessError, match=r"none was found at ~/\.ray/auth_token \(401\): set RAY_AUTH_TOKEN_PATH"
    ):
        Dashboard(server["address"])
    assert server["asked"] == [""]


def test_a_wrong_token_is_said_with_where_it_is_from_and_is_not_shown(server, shell, tmp_path):
    server["status"] = 403
    (tmp_path / "token").write_text("very-secret\n")
    shell.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    with pytest.raises(ClusterAccessError, match=r"does not take the token from .*token \(403\)") as refused:
        Dashboard(server["address"])
    assert server["asked"] == ["Bearer very-secret"]
    assert "very-secret" not in str(refused.value)


def test_ray_looks_for_the_token_in_this_order_and_so_do_we(server, shell, tmp_path):
    server["status"] = 403
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("third")
    (tmp_path / "token").write_text("second")
    settings = [{}, {"RAY_AUTH_TOKEN_PATH": str(tmp_path / "token")}, {"RAY_AUTH_TOKEN": "first"}]
    for setting in settings:
        for name, value in setting.items():
            shell.setenv(name, value)
        with pytest.raises(ClusterAccessError):
            Dashboard(server["address"])
    assert server["asked"] == ["Bearer third", "Bearer second", "Bearer first"]


def test_another_version_of_ray_is_refused(server):
    server["body"] = json.dumps({"version": "4", "ray_version": "2.40.0", "ray_commit": "", "session_name": ""})
    with pytest.raises(ClusterAccessError, match=f"runs Ray 2.40.0, rayrlhf needs Ray {ray.__version__}"):
        Dashboard(server["address"])


def test_a_cluster_that_asks_for_no_token_gets_no_job(server, shell):
    shell.setenv("RAYRLHF_ALLOW_INSECURE", "")
    shell.setenv("RAY_AUTH_TOKEN", "not-asked-for")
    server["body"] = json.dumps({"version": "4", "ray_version": ray.__version__})
    dashboard = Dashboard(server["address"])
    with pytest.raises(ClusterAccessError, match=r"is open: .* RAY_AUTH_MODE=token .* --allow-insecure"):
        dashboard.require_token()
    assert server["asked"][-1] is None
    shell.setenv("RAYRLHF_ALLOW_INSECURE", "1")
    dashboard.require_token()
    server["status"] = 401
    shell.setenv("RAYRLHF_ALLOW_INSECURE", "")
    dashboard.require_token()


@pytest.mark.parametrize(("status", "body"), [(200, "<html>"), (404, ""), (200, "{}"), (200, "[]"), (500, "oops")])
def test_what_is_no_dashboard_is_said(server, status, body):
    server.update(status=status, body=body)
    with pytest.raises(ClusterAccessError, match=server["address"]):
        Dashboard(server["address"])


def test_nobody_there_is_said(shell):
    with pytest.raises(ClusterAwayError, match=r"no Ray dashboard answers at http://127\.0\.0\.1:\d+"):
        Dashboard(f"http://127.0.0.1:{free_port()}")


@pytest.mark.parametrize("address", ["127.0.0.1:8265", "ray://host:10001", "auto", "http://"])
def test_an_address_that_is_no_dashboards_is_refused(shell, address):
    with pytest.raises(ClusterAccessError, match=r"the dashboard's URL is expected, as in http://127\.0\.0\.1:8265"):
        Dashboard(address)


def test_a_password_in_the_address_is_refused_and_not_shown(shell):
    with pytest.raises(ClusterAccessError) as refused:
        Dashboard("http://user:hunter2@host:8265")
    assert "hunter2" not in str(refused.value)


def test_no_address_is_said(shell):
    with pytest.raises(ClusterAccessError, match="--address is missing"):
        Dashboard(None)
