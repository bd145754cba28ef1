"""The doctor on real clusters of two hosts: one that is well, and one with faults planted on its second host."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from rayrlhf.config.jobs import RLJob
from rayrlhf.config.load import validate_job
from rayrlhf.runtime.security import Access
from rayrlhf.stages.run_directory import to_toml
from tests.system import hosts, jobs
from tests.system.ray_nodes import OPEN, TOKEN, cluster, environment, start_head, start_worker, wait_until_up

pytestmark = pytest.mark.skipif(not hosts.possible(), reason=hosts.REASON)


class Pair:
    """Two hosts with a node each; the doctor is run on the first. `sick`: what the second's commands are run with."""

    def __init__(self, network, *arguments, sick=(), variables=None):
        self.first, self.second = network.hosts
        self.head, self.address = start_head(ip=self.first.address, on=self.first.on, cpus=1)
        assert wait_until_up(self.address) is Access.TOKEN_ACCEPTED, self.head.log.read_text()
        self.worker = start_worker(
            self.address, *arguments, ip=self.second.address, on=[*self.second.on, *sick], cpus=1,
            variables=TOKEN | (variables or {}),
        )  # fmt: skip
        self.worker.wait_until_joined()

    def end(self):
        self.worker.end()
        self.head.end()


def doctor(*arguments, on=(), variables=None, timeout_s=300):
    """Exit code and what it found."""
    done = subprocess.run(
        [*on, sys.executable, "-m", "rayrlhf.cli", "doctor", *arguments, "--json"],
        env=environment(TOKEN | (variables or {})), capture_output=True, text=True, timeout=timeout_s,
    )  # fmt: skip
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def reds(found):
    """Nodes and text of the red findings, by check."""
    return {f["check"]: (f["nodes"], f["found"]) for f in found["findings"] if f["level"] == "red"}


def levels(found):
    return {f["check"]: f["level"] for f in found["findings"]}


def write_job(folder, model, **sections):
    config = folder / "job.toml"
    config.write_text(to_toml(validate_job(RLJob, jobs.values(folder, model, **sections))))
    return str(config)


@pytest.fixture(scope="module")
def two_hosts():
    with hosts.network(2) as network:
        pair = Pair(network)
        yield pair
        pair.end()


def test_a_cluster_that_is_well_is_green_and_does_a_step_of_rl(two_hosts, tmp_path, tiny_policy):
    config = write_job(tmp_path, tiny_policy)
    code, found = doctor(config, "--address", two_hosts.address, on=two_hosts.first.on)
    assert reds(found) == {}
    assert code == 0
    assert set(found["nodes"]) == {two_hosts.first.address, two_hosts.second.address}
    told = levels(found)
    for check in ("token", "nodes", "clocks", "node to node", "ring of ranks", "shared by all nodes", "one RL step"):
        assert told[check] == "green", check
    assert not any(path.name.startswith(".doctor") for path in (tmp_path / "runs").glob("*"))


@pytest.mark.parametrize(
    ("variables", "told"),
    [({"RAY_AUTH_TOKEN": "0" * 64}, "refuses"), ({"RAY_AUTH_TOKEN": "", "HOME": "/nonexistent"}, "none here")],
)
def test_a_token_that_is_wrong_or_missing_is_red_within_seconds(two_hosts, variables, told):
    code, found = doctor("--address", two_hosts.address, on=two_hosts.first.on, variables=variables)
    assert code == 1
    assert told in reds(found)["token"][1]
    assert found["seconds"] < 10


def test_a_host_that_cannot_be_reached_is_red_within_seconds(two_hosts):
    code, found = doctor("--address", f"{two_hosts.first.address}:1", on=two_hosts.first.on)
    assert (code, set(reds(found))) == (1, {"address"})
    assert found["seconds"] < 20


def test_an_open_cluster_is_red_unless_it_is_allowed():
    with cluster(variables=OPEN) as address:
        code, found = doctor("--address", address, "--quick")
        assert (code, set(reds(found))) == (1, {"token"})
        _, found = doctor("--address", address, "--quick", "--allow-insecure")
        assert levels(found)["token"] == "yellow"
        assert levels(found)["nodes"] == "green"


def test_a_node_that_hangs_is_named(two_hosts):
    raylets = [p for p in psutil.Process(two_hosts.worker.process.pid).children(recursive=True) if p.name() == "raylet"]
    for raylet in raylets:
        os.kill(raylet.pid, signal.SIGSTOP)
    try:
        code, found = doctor("--address", two_hosts.address, "--quick", on=two_hosts.first.on)
    finally:
        for raylet in raylets:
            os.kill(raylet.pid, signal.SIGCONT)
    assert raylets
    assert code == 1
    assert reds(found)["nodes"][0] == [two_hosts.second.address]


SICK = """
mount -t tmpfs -o size=256m tmpfs /dev/shm
mount -t tmpfs tmpfs "$HIDDEN_RUNS" && mount -t tmpfs tmpfs "$HIDDEN_MODEL"
ulimit -n 2048
exec "$@"
"""


@pytest.fixture(scope="module")
def sick(tmp_path_factory, tiny_policy):
    """What the doctor finds where the second host has eight faults, and the job asks for a label that no node has."""
    folder = tmp_path_factory.mktemp("sick")
    model, runs, clock = folder / "model", folder / "runs", folder / "clock.so"
    shutil.copytree(tiny_policy, model)
    runs.mkdir()
    subprocess.run(["cc", "-shared", "-fPIC", "-o", clock, Path(__file__).parent / "clock_ahead.c", "-ldl"], check=True)
    variables = {
        "HIDDEN_RUNS": str(runs),
        "HIDDEN_MODEL": str(model),
        "LD_PRELOAD": str(clock),
        "CLOCK_AHEAD_S": "30",
        "GLOO_SOCKET_IFNAME": "nowhere0",
        "VLLM_ALLOW_INSECURE_SERIALIZATION": "1",
    }
    config = write_job(folder, model, critic={"node_labels": {"pool": "nowhere"}}, algorithm={"kind": "ppo"})
    with hosts.network(2) as network:
        small = "--object-store-memory=100000000"
        pair = Pair(network, small, "--num-gpus=2", sick=["sh", "-c", SICK, "sh"], variables=variables)
        try:
            code, found = doctor(config, "--address", pair.address, "--quick", on=pair.first.on)
        finally:
            log = pair.worker.log.read_text()
            pair.end()
    assert code == 1, log
    return pair.second.address, reds(found)


@pytest.mark.parametrize(
    ("check", "told"),
    [
        ("clocks", "30.0 s ahead"),
        ("shared by all nodes", "does not see"),
        ("model.path", "config.json"),
        ("/dev/shm", "0.2 GiB"),
        ("open files", "2048"),
        ("interface", "GLOO_SOCKET_IFNAME=nowhere0"),
        ("unsafe variables", "VLLM_ALLOW_INSECURE_SERIALIZATION=1"),
        ("devices", "Ray counts 2, the driver 0"),
    ],
)
def test_a_fault_of_one_host_is_red_there(sick, check, told):
    address, found = sick
    assert address in found[check][0]
    assert told in found[check][1]


def test_a_label_that_no_node_has_is_red(sick):
    assert sick[1]["node labels"] == ([], "critic: no node with the label pool=nowhere")
