"""RL through `rayrlhf submit` on two nodes that ask for a token; a job killed with its cluster goes on on a new one."""

import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests import tiny
from tests.system import jobs
from tests.system.token_cluster import TokenCluster, command, environment, rayrlhf

pytestmark = [pytest.mark.timeout(1500), pytest.mark.long]
STEPS = 4
COMPARED = ("reward/", "policy/", "kl/", "advantage/", "rollout/", "drift/", "weight_sync/weights_digest")
TOML = """
name = "straight"
seed = 3
[model]
path = "model"
[data]
prompts = "prompts.jsonl"
max_prompt_tokens = 48
[algorithm]
kind = "grpo"
kl_coefficient = 0.05
[rollout]
cpus = 1.2
prompts_per_step = 4
samples_per_prompt = 4
max_tokens = 12
threads = 1
[learner]
learning_rate = 1e-3
micro_batch_tokens = 256
threads = 1
[reference]
micro_batch_tokens = 256
threads = 1
[reward]
function = "scoring:vowels"
[checkpoint]
every_steps = 2
[run]
directory = "{runs}"
steps = {steps}
phase_timeout_s = 300.0
"""
SCORING = "def vowels(request):\n    return sum(c in 'aeiou' for c in request.response) / 8\n"


@dataclass
class Project:
    """A working directory with a model, prompts, and a reward function of its own."""

    root: Path
    home: Path
    runs: Path

    @classmethod
    def make(cls, folder):
        project = cls(folder / "work", folder / "home", folder / "runs")
        project.root.mkdir()
        project.home.mkdir()
        tiny.write_policy(project.root / "model")
        jobs.write_prompts(project.root / "prompts.jsonl")
        (project.root / "scoring.py").write_text(SCORING)
        (project.root / "rl.toml").write_text(TOML.format(runs=project.runs, steps=STEPS))
        return project

    def submit(self, cluster, *words, timeout=600):
        return rayrlhf(
            "submit", "rl.toml", *words, "--address", cluster.address, home=self.home, cwd=self.root, timeout=timeout
        )

    def two_nodes(self):
        """A head with room for the driver and small roles; a rollout worker fits on the other node only."""
        cluster = TokenCluster(self.home)
        cluster.add_node()
        return cluster

    def model(self, name):
        return load_file(self.runs / name / "model" / "model.safetensors")


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return Project.make(tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="module")
def straight(project):
    """The nodes of each kind of actor of an undisturbed run, by class name."""
    cluster = project.two_nodes()
    try:
        done = project.submit(cluster)
        assert done.returncode == 0, done.stdout + done.stderr
        nodes = {}
        for actor in cluster.state("actors"):
            nodes.setdefault(actor["class_name"].split(".")[-1], set()).add(actor["node_id"])
        return nodes
    finally:
        cluster.kill()


def test_an_rl_job_runs_on_both_nodes_to_its_end(project, straight):
    assert len(jobs.rows(project.runs / "straight" / "metrics.jsonl")) == STEPS
    assert project.model("straight")
    assert straight["RolloutRole"].isdisjoint(straight["JobSupervisor"])


def test_a_job_killed_with_its_head_ends_as_an_undisturbed_one(project, straight):
    metrics = project.runs / "killed" / "metrics.jsonl"
    cluster = project.two_nodes()
    try:
        words = command("submit", "rl.toml", "name=killed", "--address", cluster.address)
        with (project.home / "killed.log").open("wb") as log:
            first = subprocess.Popen(
                words, cwd=project.root, env=environment(project.home), stdout=log, stderr=subprocess.STDOUT
            )
        deadline = time.monotonic() + 400
        while not metrics.exists() or len(jobs.rows(metrics)) < 3:
            assert time.monotonic() < deadline
            assert first.poll() is None
            time.sleep(0.05)
    finally:
        cluster.kill()
        first.kill()
        first.wait()
    assert len(jobs.rows(metrics)) < STEPS  # it was in the middle
    assert not (metrics.parent / "model").exists()

    cluster = project.two_nodes()
    try:
        resumed = project.submit(cluster, "name=killed")
    finally:
        cluster.kill()
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    weights, wanted = project.model("killed"), project.model("straight")
    assert weights.keys() == wanted.keys()
    assert all((weights[name] == value).all() for name, value in wanted.items())
    rows = [jobs.rows(project.runs / name / "metrics.jsonl") for name in ("straight", "killed")]
    assert [row["step"] for row in rows[1]] == list(range(1, STEPS + 1))
    for straight_row, killed_row in zip(*rows, strict=True):
        same = {k: v for k, v in straight_row.items() if k.startswith(COMPARED) and not k.endswith("tokens_per_s")}
        assert len(same) > 15
        assert {k: killed_row[k] for k in same} == same
