"""The loop's orchestration on real Ray with deterministic roles: order, versions, deadlines, failures, resume."""

import inspect
from collections import Counter

import pytest
import ray

from rayrlhf.errors import RecoveryError, RewardError, WeightSyncError
from rayrlhf.loop.rlhf_loop import RLHFLoop
from tests.system import soak
from tests.system.fake_roles import FakeLearner
from tests.system.fake_run import FakeRun


@pytest.fixture(scope="module", autouse=True)
def cluster():
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def test_the_loop_can_be_held_in_the_head():
    assert len(inspect.getsource(RLHFLoop.run).splitlines()) <= 35


def test_every_trajectory_is_learned_once_and_in_order(tmp_path):
    run = FakeRun(tmp_path, run={"steps": 3})
    run.loop.run()
    _, learned = run.history()
    assert [step for step, _ in learned] == [1, 2, 3]
    ids = [i for _, step_ids in learned for i in step_ids]
    assert ids == sorted(ids)
    assert len(set(ids)) == 3 * 4 * 4


def test_without_staleness_every_step_is_written_by_the_policy_it_trains(tmp_path):
    run = FakeRun(tmp_path, run={"steps": 3})
    run.loop.run()
    assert [m["rollout/staleness_steps"] for _, m in run.memory.rows] == [0, 0, 0]


def test_staleness_fills_up_to_its_bound_and_never_passes_it(tmp_path):
    run = FakeRun(tmp_path, run={"steps": 6}, rollout={"max_staleness": 2})
    run.loop.run()
    assert [m["rollout/staleness_steps"] for _, m in run.memory.rows] == [0, 1, 2, 2, 2, 2]


def test_a_sync_makes_as_many_calls_for_three_tensors_as_for_three_thousand(tmp_path):
    counts = []
    for tensors in (3, 3000):
        run = FakeRun(tmp_path / str(tensors), tensors=tensors, run={"steps": 2}, rollout={"workers": 2})
        run.loop.run()
        counts.append(Counter(run.calls(run.roles.learner) + run.calls(run.roles.rollout)))
    assert counts[0] == counts[1]
    assert counts[0]["receive"] == 2 * 3


def test_a_resumed_run_learns_what_the_undisturbed_one_learns(tmp_path):
    whole = FakeRun(tmp_path / "whole", run={"steps": 4})
    whole.loop.run()
    FakeRun(tmp_path / "parts", run={"steps": 2}).loop.run()
    rest = FakeRun(tmp_path / "parts", run={"steps": 4})
    assert rest.progress.step == 2
    rest.loop.run()
    assert rest.history()[0] == whole.history()[0]
    assert rest.history()[1] == whole.history()[1][2:]


def test_old_checkpoints_go_and_the_last_step_is_always_saved(tmp_path):
    run = FakeRun(tmp_path, run={"steps": 5}, checkpoint={"every_steps": 2, "keep": 2})
    run.loop.run()
    assert [folder.name for folder in run.store.folders()] == ["step-000004", "step-000005"]


def test_the_adaptive_controller_raises_the_coefficient_when_kl_is_above_its_target(tmp_path):
    ppo = {"kind": "ppo", "kl_coefficient": 0.1, "kl_controller": {"target_nats": 6.0, "horizon_episodes": 160}}
    run = FakeRun(tmp_path, run={"steps": 2}, algorithm=ppo)
    progress = run.loop.run()
    assert progress.kl_coefficient == pytest.approx(0.1 * (1 + 0.2 * 16 / 160) ** 2)


def test_too_many_failed_rewards_stop_the_run_before_anything_is_committed(tmp_path):
    run = FakeRun(tmp_path, run={"steps": 2})
    ray.get(run.roles.learner._actors[0].fail_rewards.remote(0.5))
    with pytest.raises(RewardError, match=r"step 1: 50% of the rewards failed.*the judge is asleep"):
        run.loop.run()
    assert not list(run.directory.trajectories.glob("*.parquet"))


@pytest.mark.parametrize("what", ["die", "raise"])
@pytest.mark.parametrize(("role", "method"), [("rollout", "generate"), ("reward", "score"), ("learner", "learn")])
def test_a_fault_that_comes_back_stops_the_run_and_is_named(tmp_path, role, method, what):
    run = FakeRun(
        tmp_path, faults={role: (0, method, what)}, always=True, recovery={"max_failures": 1, "backoff_s": 0.0}
    )
    with pytest.raises(RecoveryError, match=f"of step 1: {role} 0, {method}: ") as error:
        run.loop.run()
    assert ("broken on purpose" if what == "raise" else "died") in str(error.value)


@pytest.mark.parametrize(("role", "method"), [("learner", "learn"), ("rollout", "receive"), ("reward", "score")])
def test_a_role_that_hangs_is_ended_at_the_deadline_and_replaced(tmp_path, role, method):
    run = FakeRun(
        tmp_path, faults={role: (0, method, "hang")}, run={"steps": 2, "phase_timeout_s": 2.0},
        weight_sync={"timeout_s": 2.0},
    )  # fmt: skip
    run.loop.run()
    assert [step for step, _ in run.history()[1]] == [1, 2]
    (recovered,) = [e for e in run.events() if e["event"] == "recovered"]
    assert (recovered["role"], recovered["rank"]) == (role, 0)


def test_a_push_that_is_not_proven_stops_the_run_and_no_rollout_worker_answers(tmp_path):
    run = FakeRun(tmp_path, faults={"rollout": (1, "held", "stale")}, rollout={"workers": 2})
    with pytest.raises(WeightSyncError, match="rollout worker 1, version 0: it says that it has version -1"):
        run.loop.run()
    assert run.roles.rollout.live == []


def test_two_learner_ranks_take_part_in_every_collective(tmp_path):
    run = FakeRun(tmp_path, run={"steps": 1}, learner={"ranks": 2})
    run.loop.run()
    first, second = run.ask(run.roles.learner, "seen")
    collectives = [FakeLearner.logprobs, FakeLearner.learn, FakeLearner.send, FakeLearner.probe, FakeLearner.snapshot]
    for method in collectives:
        assert first.count(method.__name__) == second.count(method.__name__) > 0


def test_over_three_hundred_steps_no_role_grows(tmp_path):
    run = FakeRun(
        tmp_path, run={"steps": 300}, algorithm={"kind": "ppo"}, rollout={"workers": 2}, learner={"ranks": 2},
        checkpoint={"every_steps": 10},
    )  # fmt: skip
    run.loop.run()
    grown = soak.growth([metrics for _, metrics in run.memory.rows])
    assert len(grown) == 8
    assert {role: share for role, share in grown.items() if share > soak.MOST} == {}
