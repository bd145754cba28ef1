"""cluster/slurm.sh with Ray itself, on two hosts as network namespaces; only `srun` is ours.

`ray symmetric-run` ends every Ray process that it can see, so each host has processes of its own, and a /tmp/ray.
"""

import json
import os
import shutil
import subprocess
import sys
import uuid
from contextlib import contextmanager
from pathlib import Path

import pytest

pytestmark = pytest.mark.long
ROOT = Path(__file__).parents[3]
ALONE = "unshare --mount --pid --fork --kill-child --mount-proc"
SRUN = """#!/bin/bash
while [ "$1" != bash ]; do shift; done
export -p >"$SEEN/new"
printf '%q ' "$@" >>"$SEEN/new"
mv "$SEEN/new" "$SEEN/task"
SLURM_NODEID=0 "$@"
code=$?
until [ -s "$SEEN/code" ]; do sleep 0.2; done
exit $((code > $(cat "$SEEN/code") ? code : $(cat "$SEEN/code")))
"""
"""Both tasks, the second by NODE on the other host; ends with the higher exit code, as Slurm's does."""
NODE = """
until [ -e "$SEEN/task" ]; do sleep 0.2; done
(. "$SEEN/task") >"$SEEN/b.log" 2>&1
echo $? >"$SEEN/code"
"""
DRIVER = """#!{python}
import json, os, sys, urllib.error, urllib.request
import ray
from rayrlhf.runtime.cluster import connect, disconnect

connect()
nodes = [node for node in ray.nodes() if node["Alive"]]
try:
    status = urllib.request.urlopen("http://127.0.0.1:8265/api/jobs/", timeout=20).status
except urllib.error.HTTPError as error:
    status = error.code
seen = {{
    "arguments": sys.argv[1:],
    "groups": sorted((node["NodeManagerAddress"], node["Labels"].get("rayrlhf/group")) for node in nodes),
    "cpus": [node["Resources"]["CPU"] for node in nodes],
    "without_token": status,
}}
with open(os.environ["SEEN"] + "/driver.json", "w") as file:
    json.dump(seen, file)
disconnect()
sys.exit(3)
"""


@pytest.fixture
def hosts():
    """Two network namespaces that reach each other at 10.77.0.1 and 10.77.0.2."""
    if os.geteuid() != 0 or not shutil.which("ip") or not shutil.which("unshare"):
        pytest.skip("network namespaces need root, ip and unshare")
    mark = uuid.uuid4().hex[:6]
    names = [f"slurm-{mark}-{side}" for side in "ab"]
    try:
        for name in names:
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
        ip("link", "add", f"va{mark}", "netns", names[0], "type", "veth", "peer", f"vb{mark}", "netns", names[1])
        for i, (name, device) in enumerate(zip(names, (f"va{mark}", f"vb{mark}"), strict=True)):
            ip("-n", name, "addr", "add", f"10.77.0.{i + 1}/24", "dev", device)
            ip("-n", name, "link", "set", device, "up")
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False)


@contextmanager
def on_host(name, script, environment):
    script = f"mkdir -p /tmp/ray && mount -t tmpfs tmpfs /tmp/ray || exit 1\n{script}"
    process = subprocess.Popen(
        ["ip", "netns", "exec", name, *ALONE.split(), "bash", "-c", script],
        env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()  # and with it all processes of the host
        process.wait()


def ip(*arguments):
    subprocess.run(["ip", *arguments], check=True)


def program(path, text):
    path.write_text(text)
    path.chmod(0o755)


def test_two_nodes_become_a_closed_cluster_with_their_labels_and_the_runs_exit_code(hosts, tmp_path):
    seen, programs, home = (tmp_path / name for name in ("seen", "bin", "home"))
    for folder in (seen, programs, home):
        folder.mkdir()
    program(programs / "srun", SRUN)
    program(programs / "rayrlhf", DRIVER.format(python=sys.executable))
    environment = {
        "PATH": f"{programs}:{Path(sys.executable).parent}:{os.defpath}:/usr/sbin:/sbin", "HOME": str(home),
        "SEEN": str(seen), "PYTHONPATH": str(ROOT), "HEAD_IP": "10.77.0.1", "SLURM_JOB_ID": "77",
        "SLURM_JOB_NUM_NODES": "2", "SLURM_CPUS_ON_NODE": "3", "NODE_GROUPS": "learner rollout",
    }  # fmt: skip
    with on_host(hosts[1], NODE, environment | {"SLURM_NODEID": "1"}) as node:
        with on_host(hosts[0], f"bash {ROOT}/cluster/slurm.sh rl my.toml a=1", environment) as job:
            said, _ = job.communicate(timeout=200)
        node.wait(timeout=10)
    said += (seen / "b.log").read_text()
    assert (seen / "driver.json").exists(), said
    assert json.loads((seen / "driver.json").read_text()) == {
        "arguments": ["rl", "my.toml", "a=1"],
        "groups": [["10.77.0.1", "learner"], ["10.77.0.2", "rollout"]],
        "cpus": [3.0, 3.0],
        "without_token": 401,
    }
    assert (seen / "code").read_text() == "0\n", said
    assert job.returncode == 3, said
    assert not list(home.glob(".rayrlhf-*")), "the token goes with the job"
