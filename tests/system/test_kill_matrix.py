"""SIGKILL to every role in every phase, over fake engines: nothing is lost, nothing doubled, the result is the same."""

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import ray

from tests.system import fake_job, faults, jobs

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", autouse=True)
def cluster():
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The learner's state after every step."""
    run = fake_job.make(tmp_path_factory.mktemp("undisturbed"), max(faults.STEPS.values()))
    run.loop.run()
    return run.ask(run.roles.learner, "by_step")[0]


def check(folder, undisturbed, steps):
    root = folder / "runs" / "run"
    assert (root / "model" / "state").read_text() == undisturbed[steps]
    faults.check_journal(root / "trajectories", steps, 4, 4)
    assert [row["step"] for row in jobs.metrics(folder)] == list(range(1, steps + 1))


@pytest.mark.parametrize("name", [name for name in faults.ROLES if name != "driver"])
def test_a_role_killed_in_every_phase_changes_nothing(tmp_path, undisturbed, name, monkeypatch):
    monkeypatch.setenv("RAYRLHF_FAULTS", json.dumps([asdict(f) for f in faults.plan(name, after_s=0.02)]))
    run = fake_job.make(tmp_path, faults.STEPS[name])
    run.loop.run()
    check(tmp_path, undisturbed, faults.STEPS[name])
    role, _ = faults.ROLES[name]
    recovered = [event for event in run.events() if event["event"] == "recovered"]
    assert len(recovered) == len(faults.PHASES), run.events()
    assert {event["role"] for event in recovered} == {role}


def test_a_driver_killed_in_every_phase_goes_on_by_one_resume_each(tmp_path, undisturbed):
    for fault in [*faults.plan("driver", after_s=0.02), None]:
        planned = json.dumps([asdict(fault)] if fault else [])
        command = [sys.executable, "-m", "tests.system.fake_job", str(tmp_path), str(faults.STEPS["driver"])]
        done = subprocess.run(
            command, cwd=ROOT, env={**os.environ, "RAYRLHF_FAULTS": planned}, capture_output=True, timeout=120
        )
        assert done.returncode == (-9 if fault else 0), done.stderr.decode()[-2000:]
    check(tmp_path, undisturbed, faults.STEPS["driver"])
