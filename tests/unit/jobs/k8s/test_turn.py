"""A CronJob's pod starts a turn and stays until its end: against an API server that keeps RayJobs, over real HTTP."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from rayrlhf.cli import main
from rayrlhf.errors import RunError
from rayrlhf.jobs.k8s import turn
from rayrlhf.jobs.k8s.render import render
from rayrlhf.jobs.k8s.settings import KubernetesSettings

PATH = "/apis/ray.io/v1/namespaces/rayrlhf/rayjobs"


class ApiServer(ThreadingHTTPServer):
    """Keeps RayJobs; `looks` is what the operator says of a job at each look."""

    def __init__(self, looks=(), jobs=()):
        super().__init__(("127.0.0.1", 0), Handler)
        self.looks, self.jobs, self.made, self.seen = list(looks), list(jobs), [], []


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        path, _, query = self.path.partition("?")
        if not self._is_known():
            return
        if path == PATH:
            self.server.seen.append(query)
            return self._answer(200, {"items": self.server.jobs})
        look = self.server.looks.pop(0)
        if look == "away":
            return self._answer(503, {})
        return self._answer(
            200, {"metadata": {"name": path.rsplit("/", 1)[-1]}, "status": {"jobDeploymentStatus": look}}
        )

    def do_POST(self):
        job = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self._is_known():
            self.server.made.append(job)
            self._answer(201, {"metadata": {"name": job["metadata"]["generateName"] + "abc12"}})

    def _is_known(self):
        known = self.headers["Authorization"] == "Bearer right"
        if not known:
            self._answer(403, {"message": "forbidden"})
        return known

    def _answer(self, status, value):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def take(tmp_path, project, monkeypatch):
    """Take a turn against an API server."""
    manifests = [manifest.manifest() for manifest in render("examples/cycle.toml", [], KubernetesSettings())]
    file = tmp_path / "turn.json"
    file.write_text(next(m["data"]["turn.json"] for m in manifests if m["metadata"]["name"] == "cycle-turn"))
    (tmp_path / "namespace").write_text("rayrlhf")
    monkeypatch.setattr(turn, "LOOK_S", 0.01)

    def run(server, token="right"):
        (tmp_path / "token").write_text(f"{token}\n")
        monkeypatch.setattr(turn, "api_server", lambda: f"http://127.0.0.1:{server.server_port}")
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            turn.take_turn(str(file), tmp_path)
        finally:
            server.shutdown()
            server.server_close()

    return run


def job(name, status):
    return {"metadata": {"name": name}, "status": {"jobDeploymentStatus": status}}


def test_a_turn_is_made_on_the_cycle_s_cluster_and_waited_for(take, capsys):
    server = ApiServer(looks=["Initializing", "Running", "away", "Complete"], jobs=[job("old", "Complete")])
    take(server)
    [made] = server.made
    assert made["spec"]["clusterSelector"] == {"ray.io/cluster": "cycle"}
    assert "rayrlhf%2Fturn-of%3Dcycle" in server.seen[0]
    assert "rayjob/cycle-turn-abc12: done" in capsys.readouterr().out
    assert server.looks == []


def test_a_turn_that_goes_on_is_joined_and_no_other_is_made(take, capsys):
    server = ApiServer(looks=["Running", "Complete"], jobs=[job("old", "Failed"), job("running", "Running")])
    take(server)
    assert server.made == []
    assert "rayjob/running: goes on" in capsys.readouterr().out


def test_a_turn_that_fails_fails_the_timer_s_job(take):
    with pytest.raises(RunError, match=r"rayjob/cycle-turn-abc12: Failed"):
        take(ApiServer(looks=["Running", "Failed"]))


def test_an_account_without_rights_is_said(take):
    with pytest.raises(RunError, match=r"403: .*forbidden"):
        take(ApiServer(), token="wrong")


def test_an_api_server_that_stays_away_ends_it(take, monkeypatch):
    monkeypatch.setattr(turn, "PATIENCE_S", 0.05)
    with pytest.raises(RunError, match="has not answered"):
        take(ApiServer(looks=["Running", *["away"] * 100]))


def test_outside_of_a_pod_it_says_so(project, monkeypatch, capsys):
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    assert main(["k8s", "turn", "x.json"]) == 2
    assert "runs in a pod" in capsys.readouterr().err
