"""cluster/slurm.sh with a Slurm of scripts: one node, whose `ray symmetric-run` only runs what follows `--`."""

import os
import signal
import stat
import subprocess
import time
from pathlib import Path

import pytest

from tests.unit.cluster.test_images import tool

SCRIPT = Path(__file__).parents[3] / "cluster/slurm.sh"
PROGRAMS = {
    "srun": """
        echo "$@" > "$SEEN/srun"; env > "$SEEN/srun-environment"
        while [ "$1" != bash ]; do shift; done
        exec "$@"
    """,
    "ray": """
        printf '%s\\n' "$@" > "$SEEN/ray"
        stat -c '%a %U' "$RAY_AUTH_TOKEN_PATH" > "$SEEN/mode"; cp "$RAY_AUTH_TOKEN_PATH" "$SEEN/token"
        echo "$RAY_AUTH_TOKEN_PATH" > "$SEEN/path"
        while [ "$1" != -- ]; do shift; done
        shift
        "$@"
    """,
    "rayrlhf": """
        printf '%s\\n' "$RAY_ADDRESS" "$@" > "$SEEN/rayrlhf"
        trap 'echo saved > "$SEEN/saved"; exit 143' TERM
        case $DO in fail) exit 7;; wait) touch "$SEEN/waiting"; while :; do sleep 0.1; done;; esac
    """,
    "scontrol": 'echo "$@" > "$SEEN/scontrol"; ls "$(dirname "$(cat "$SEEN/path")")" > "$SEEN/left" 2>&1; exit 0',
}


class Slurm:
    def __init__(self, folder):
        self.seen, self.home = folder / "seen", folder / "home"
        programs = folder / "bin"
        for made in (self.seen, self.home, programs):
            made.mkdir()
        for name, text in PROGRAMS.items():
            (programs / name).write_text(f"#!/bin/bash\n{text}\n")
            (programs / name).chmod(0o755)
        self.environment = {
            "PATH": f"{programs}:{os.environ['PATH']}", "HOME": str(self.home), "SEEN": str(self.seen),
            "SLURM_JOB_ID": "12345", "SLURM_JOB_NUM_NODES": "2", "SLURM_CPUS_ON_NODE": "16", "HEAD_IP": "10.1.2.3",
        }  # fmt: skip

    def start(self, *arguments, **variables):
        return subprocess.Popen(
            ["bash", SCRIPT, *arguments], env=self.environment | variables, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def run(self, *arguments, **variables):
        process = self.start(*arguments, **variables)
        _, said = process.communicate(timeout=60)
        return process.returncode, said

    def saw(self, name):
        return (self.seen / name).read_text().split()


@pytest.fixture
def slurm(tmp_path):
    return Slurm(tmp_path)


def test_it_is_a_script_that_shellcheck_takes(tmp_path):
    said = subprocess.run([tool("shellcheck"), str(SCRIPT)], capture_output=True, text=True, check=False)
    assert (said.returncode, said.stdout) == (0, "")
    worse = tmp_path / "slurm.sh"
    worse.write_text(SCRIPT.read_text().replace('rm -rf "$private"', "rm -rf $private"))
    assert subprocess.run([tool("shellcheck"), str(worse)], capture_output=True, check=False).returncode == 1


def test_the_driver_gets_the_command_and_the_address_of_the_cluster(slurm):
    assert slurm.run("rl", "my config.toml", "run.steps=3") == (0, "")
    assert (slurm.seen / "rayrlhf").read_text().splitlines() == [
        "10.1.2.3:22345",
        "rl",
        "my config.toml",
        "run.steps=3",
    ]
    words = slurm.saw("ray")
    assert words[:5] == ["symmetric-run", "--address", "10.1.2.3:22345", "--min-nodes", "2"]
    assert words[words.index("--num-cpus") + 1] == "16"
    assert not any(word.startswith("--labels") for word in words)


def test_a_node_has_the_label_of_its_place(slurm):
    slurm.run("rl", "x.toml", NODE_GROUPS="learner rollout", SLURM_NODEID="1", SRUN_OPTIONS="--mem=0 --container=x")
    words = slurm.saw("ray")
    assert words[words.index("--labels") + 1] == "rayrlhf/group=rollout"
    assert slurm.saw("srun")[:3] == ["--mem=0", "--container=x", "--ntasks-per-node=1"]


def test_each_job_has_a_token_of_its_own_in_a_file_that_nobody_else_reads_and_that_goes_with_it(slurm):
    tokens = set()
    for _ in range(2):
        assert slurm.run("rl", "x.toml")[0] == 0
        (token,) = slurm.saw("token")
        tokens.add(token)
        assert len(token) == 64
        assert slurm.saw("mode")[0] == "600"
        folder = Path(*slurm.saw("path")).parent
        assert folder.parent == slurm.home
        assert not folder.exists()
        seen = (slurm.seen / "srun-environment").read_text()
        assert "RAY_AUTH_MODE=token" in seen
        assert all(token not in (slurm.seen / name).read_text() for name in ("srun-environment", "srun", "ray"))
    assert len(tokens) == 2


def test_what_the_run_ended_with_is_what_the_job_ends_with(slurm):
    assert slurm.run("rl", "x.toml", DO="fail")[0] == 7
    assert not (slurm.seen / "scontrol").exists()
    assert list(slurm.home.iterdir()) == []


def test_slurms_warning_lets_the_run_save_and_queues_the_job_again(slurm):
    process = slurm.start("rl", "x.toml", DO="wait")
    deadline = time.monotonic() + 30
    while not (slurm.seen / "waiting").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 143
    assert slurm.saw("saved") == ["saved"]
    assert slurm.saw("scontrol") == ["requeue", "12345"]
    assert "No such file" in (slurm.seen / "left").read_text(), "the token was gone by then"


def test_what_is_missing_is_said(slurm):
    code, said = slurm.run()
    assert code == 2
    assert "usage: sbatch" in said
    code, said = slurm.run("rl", "x.toml", HEAD_IP="127.0.1.1")
    assert code == 1
    assert "set HEAD_IP" in said


def test_it_can_be_given_to_sbatch_as_it_is():
    assert SCRIPT.stat().st_mode & stat.S_IXUSR
    options = [line for line in SCRIPT.read_text().splitlines() if line.startswith("#SBATCH ")]
    assert {"#SBATCH --signal=B:TERM@300", "#SBATCH --requeue", "#SBATCH --ntasks-per-node=1"} <= set(options)
