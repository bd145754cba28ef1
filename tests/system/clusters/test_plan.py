"""The memory that a plan predicts is what the processes of a real run hold."""

import statistics
from dataclasses import asdict, replace

import psutil
import pytest

from rayrlhf.config.jobs import RLJob
from rayrlhf.config.load import validate_job
from rayrlhf.jobs.plan import loop_probe
from rayrlhf.jobs.plan.calibration import base_memory
from rayrlhf.jobs.plan.geometry import read_lengths
from rayrlhf.jobs.plan.hardware import cpu_estimate
from rayrlhf.jobs.plan.measuring import run_probe, whole_jobs
from rayrlhf.jobs.plan.memory import MIB
from rayrlhf.jobs.plan.models import read_models
from rayrlhf.jobs.plan.plan import make_plan
from rayrlhf.runtime.environment import node_cores
from tests.benchmarks import plan_jobs

pytestmark = [pytest.mark.long, pytest.mark.timeout(1200)]
CASE = plan_jobs.Case("wide-ppo", plan_jobs.Shape(4, 512, 8192), 8, 4, {
    "rollout": {"prompts_per_step": 8, "samples_per_prompt": 2, "max_tokens": 32},
    "algorithm": {"kind": "ppo", "kl_coefficient": 0.02}})  # fmt: skip


@pytest.fixture(scope="module")
def machine():
    """This machine, with the memory that processes have before any model is large, as a calibration finds it."""
    small, _ = whole_jobs("float32")
    found = run_probe(loop_probe.__name__, [asdict(small)])
    here = cpu_estimate(1, node_cores(), psutil.virtual_memory().total, "float32")
    return replace(here, base_mib=base_memory(found["memory_mib"], "float32", here))


def test_peak_memory_of_every_role_is_predicted_within_ten_percent(tmp_path, machine):
    job = validate_job(RLJob, plan_jobs.values(CASE, tmp_path))
    plan = make_plan(job, read_models(job), read_lengths(job, None), machine)
    runs = [plan_jobs.peaks_mib(plan_jobs.run(CASE, tmp_path / f"run-{n}")) for n in range(3)]
    measured = {role: statistics.median(run[role] for run in runs) for role in runs[0]}  # single runs differ by a fifth
    predicted = {process.role: process.total / MIB for process in plan.memory}
    assert set(predicted) == {"rollout", "learner", "critic", "reference", "reward"}
    off = {role: mib / measured[role] - 1 for role, mib in predicted.items()}
    assert max(map(abs, off.values())) < 0.10, {role: (predicted[role], measured[role]) for role in off}
    assert predicted["learner"] > machine.base_mib["learner"] + 400  # the model's part is not lost in the base
