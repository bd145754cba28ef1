"""Open Ray clusters are neither started nor joined, and a token that is missing or wrong is said at once."""

import json
import stat
import subprocess
import sys
import time

import pytest

from rayrlhf.runtime.security import Access
from rayrlhf.stages.run_directory import to_toml
from tests.system import jobs
from tests.system.ray_nodes import OPEN, TOKEN, cluster, environment

JOIN = """
import json, sys
import ray
from rayrlhf.runtime.cluster import connect, disconnect
connect(sys.argv[1] if len(sys.argv) > 1 else None)
print(json.dumps({"nodes": len(ray.nodes())}))
disconnect()
"""


def join(address=None, variables=TOKEN, script=JOIN):
    """A fresh process joins; returns the number of nodes, or the last line of what it says."""
    command = [sys.executable, "-c", script, *([address] if address else [])]
    run = subprocess.run(command, env=environment(variables), capture_output=True, text=True, timeout=120)
    return json.loads(run.stdout)["nodes"] if run.returncode == 0 else run.stderr.strip().splitlines()[-1]


@pytest.fixture(scope="module")
def open_cluster():
    with cluster(variables=OPEN, wanted=(Access.OPEN,)) as address:
        yield address


@pytest.fixture(scope="module")
def closed_cluster():
    with cluster(wanted=(Access.TOKEN_ACCEPTED,)) as address:
        yield address


def test_a_cluster_that_asks_for_our_token_is_joined(closed_cluster):
    assert join(closed_cluster) == 1


def test_the_token_is_used_where_ray_s_own_variable_is_not_set(closed_cluster):
    """Ray alone would not send it to an address that it was given."""
    assert join(closed_cluster, {"RAY_AUTH_MODE": ""}) == 1


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"RAY_AUTH_TOKEN": "0" * 64}, "refuses our token"),
        ({"RAY_AUTH_TOKEN": "", "HOME": "/nonexistent"}, "none here"),
        ({"RAY_AUTH_TOKEN": "", "RAY_AUTH_TOKEN_PATH": "/nonexistent"}, "none here"),
    ],
)
def test_a_token_that_is_wrong_or_missing_is_said_at_once(closed_cluster, variables, said):
    begun = time.monotonic()
    message = join(closed_cluster, variables)
    assert said in message
    assert "RAY_AUTH_TOKEN" in message
    assert time.monotonic() - begun < 15  # Ray itself takes twenty seconds and a screenful


def test_an_open_cluster_is_refused(open_cluster):
    assert "is open" in join(open_cluster)


def test_an_open_cluster_is_joined_when_that_is_allowed(open_cluster):
    assert join(open_cluster, {**TOKEN, "RAYRLHF_ALLOW_INSECURE": "1"}) == 1


def test_the_command_line_refuses_an_open_cluster_without_a_traceback(open_cluster, tmp_path, tiny_policy):
    job = jobs.make(tmp_path, tiny_policy, run={"ray_address": open_cluster})
    config = tmp_path / "job.toml"
    config.write_text(to_toml(job))
    command = [sys.executable, "-m", "rayrlhf.cli", "rl", str(config)]
    run = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=120)
    assert run.returncode == 2
    assert "--allow-insecure" in run.stderr
    assert "Traceback" not in run.stderr
    assert not (tmp_path / "runs" / "run").exists()


def test_a_cluster_is_not_started_open():
    assert "RAY_AUTH_MODE = disabled" in join(variables=OPEN)
    assert join(variables={**OPEN, "RAYRLHF_ALLOW_INSECURE": "1"}) == 1


def test_the_token_of_a_cluster_that_is_started_here_is_its_owner_s_alone(tmp_path):
    mine = {"RAY_AUTH_MODE": "", "RAY_AUTH_TOKEN": "", "HOME": str(tmp_path)}
    assert join(variables=mine) == 1
    token = tmp_path / ".ray" / "auth_token"
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    first = token.read_text()
    assert join(variables=mine) == 1
    assert token.read_text() == first


def test_where_no_token_can_be_made_that_is_said(tmp_path):
    (tmp_path / "file").touch()
    said = join(variables={"RAY_AUTH_MODE": "", "RAY_AUTH_TOKEN": "", "HOME": str(tmp_path / "file")})
    assert "set RAY_AUTH_TOKEN" in said
    said = join(variables={"RAY_AUTH_MODE": "", "RAY_AUTH_TOKEN": "", "RAY_AUTH_TOKEN_PATH": str(tmp_path / "none")})
    assert "no token is there" in said


def test_no_cluster_at_the_address_is_said():
    assert "no Ray cluster can be reached at 127.0.0.1:1" in join("127.0.0.1:1")


def test_an_address_that_is_none_is_said():
    assert "host:port" in join("nonsense")
    assert "rayrlhf submit" in join("ray://127.0.0.1:10001")
