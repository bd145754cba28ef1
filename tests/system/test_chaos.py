"""SIGKILL to every role and in every phase of a run with the real engines: PPO with a critic, a reference and a reward
model, two vLLM workers, two ZeRO-3 ranks. The same code runs the long campaigns of `make chaos`.
"""

import pytest

from rayrlhf.runtime.faults import Fault
from tests.system import chaos, jobs, soak

pytestmark = pytest.mark.timeout(1500)
STEPS = 50
PLAN = [
    Fault("driver", 0, "rollout", 2, after_s=0.1),
    Fault("reward", 0, "rollout", 4, after_s=0.05),
    Fault("reference", 0, "score", 6, after_s=0.02),
    Fault("learner", 1, "learn", 8, after_s=0.05),
    Fault("rollout", 1, "weight_sync", 10, after_s=0.02),
    Fault("critic", 0, "checkpoint", 12, after_s=0.02),
    Fault("learner", 0, "weight_sync", 15, after_s=0.02),
    Fault("rollout", 0, "rollout", 18, after_s=0.1),
    Fault("critic", 0, "learn", 21, after_s=0.05),
    Fault("learner", 0, "checkpoint", 24, after_s=0.02),
    Fault("reference", 0, "rollout", 27, after_s=0.05),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("chaos")


@pytest.fixture(scope="module")
def undisturbed(folder, tiny_policy, tiny_reward_model):
    return chaos.run(folder / "undisturbed", tiny_policy, tiny_reward_model, STEPS)


def test_memory_does_not_grow(undisturbed):
    rows = jobs.metrics(undisturbed.directory.root.parents[1])
    assert soak.growth(rows).keys() >= {"driver", "learner_0", "learner_1", "critic_0", "reference_0", "reward_0"}
    assert {role: grown for role, grown in soak.growth(rows).items() if grown > soak.MOST} == {}


def test_eleven_kills_change_nothing(folder, undisturbed, tiny_policy, tiny_reward_model):
    outcome = chaos.run(folder / "killed", tiny_policy, tiny_reward_model, PLAN[-1].step + 2, PLAN)
    recovered = [(event["role"], event["rank"]) for event in outcome.events if event["event"] == "recovered"]
    assert sorted(recovered) == sorted((f.role, f.rank) for f in PLAN if f.role != "driver")
    assert outcome.launches == 2
    assert outcome.survivors == []
    flipped, wrong = chaos.compare(outcome, undisturbed)
    assert wrong == []
    assert len(flipped) <= 1
