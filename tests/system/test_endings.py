"""Faults other than a kill, and ways to end: stopped processes, full disks, damaged files, bad numbers, signals."""

import json
import os
import signal
from dataclasses import asdict

import pytest
import ray

from rayrlhf.data.journal import Journal
from rayrlhf.errors import InterruptedRunError, NumericalError, RecoveryError
from rayrlhf.loop.checkpoint import verify
from rayrlhf.runtime.faults import Fault
from tests.system import faults
from tests.system.fake_run import At, FakeRun

STEPS = 8
PPO = {"algorithm": {"kind": "ppo"}, "checkpoint": {"every_steps": 2}}


@pytest.fixture(scope="module", autouse=True)
def cluster():
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The learner's state after every step."""
    run = FakeRun(tmp_path_factory.mktemp("undisturbed"), run={"steps": STEPS}, **PPO)
    run.loop.run()
    return run.ask(run.roles.learner, "by_step")[0]


@pytest.fixture
def planned(monkeypatch):
    def plan(*wanted):
        monkeypatch.setenv("RAYRLHF_FAULTS", json.dumps([asdict(fault) for fault in wanted]))

    return plan


def check(run, undisturbed, steps=STEPS):
    assert run.history()[0] == undisturbed[steps]
    faults.check_journal(run.directory.trajectories, steps, 4, 4)


def events(run, kind):
    return [event for event in run.events() if event["event"] == kind]


@pytest.mark.parametrize(("role", "phase"), [("reward", "score"), ("learner", "learn"), ("rollout", "rollout")])
def test_a_stopped_process_is_reported_with_its_stacks_and_replaced(tmp_path, undisturbed, planned, role, phase):
    planned(Fault(role, 0, phase, 3, "stop"))
    run = FakeRun(
        tmp_path, work_s=0.1, run={"steps": STEPS, "phase_timeout_s": 6.0}, recovery={"stall_s": 2.0, "backoff_s": 0.1},
        rollout={"workers": 1}, **PPO,
    )  # fmt: skip
    run.loop.run()
    check(run, undisturbed)
    stall = events(run, "stall")[0]
    assert stall["message"].startswith(f"{phase} of step 3: no answer for ")
    assert any(waiting.startswith(f"{role} 0, ") for waiting in stall["waiting"])
    (text,) = [path.read_text() for path in run.directory.stacks.iterdir()][:1]
    part = text.partition(f"=== {role} 0\n")[2].partition("===")[0]
    assert "stopped" in part
    for other in ("rollout", "reward", "reference", "critic", "learner"):
        assert f"=== {other} 0\n" in text
    assert [(event["role"], event["rank"]) for event in events(run, "recovered")] == [(role, 0)]


@pytest.mark.parametrize(("role", "phase"), [("rollout", "rollout"), ("learner", "checkpoint"), ("learner", "commit")])
def test_a_full_disk_ends_the_run_and_nothing_is_lost(tmp_path, undisturbed, planned, role, phase):
    planned(Fault(role, 0, phase, 4, "disk"))
    run = FakeRun(tmp_path, work_s=0.05, run={"steps": STEPS}, **PPO)
    with pytest.raises(RecoveryError, match="Make room, then go on with --resume auto: nothing is lost"):
        run.loop.run()
    planned()
    rest = FakeRun(tmp_path, run={"steps": STEPS}, **PPO)
    assert rest.progress.step >= 2
    rest.loop.run()
    check(rest, undisturbed)


def test_a_checkpoint_damaged_under_way_is_set_aside_and_the_older_one_used(tmp_path, undisturbed, planned):
    planned(
        Fault("driver", 0, "rollout", 6, "corrupt", path="checkpoints/step-*/policy/*"),
        Fault("learner", 0, "learn", 6, after_s=0.02),
    )
    run = FakeRun(tmp_path, work_s=0.1, run={"steps": STEPS}, **PPO)
    run.loop.run()
    check(run, undisturbed)
    (damaged,) = events(run, "damaged")
    assert "step-000004/policy/shard-0: not the file that was saved" in damaged["message"]
    assert (run.directory.checkpoints / "damaged-step-000004").is_dir()
    assert "goes on from step-000002" in events(run, "recovered")[0]["message"]
    for folder in run.store.folders():
        verify(folder)


def test_bad_numbers_are_tolerated_up_to_the_limit_and_then_end_the_run_with_the_trajectories(tmp_path):
    run = FakeRun(tmp_path, faults={"learner": (0, "learn", "nan", 2)}, recovery={"max_bad_steps": 2}, run={"steps": 9})
    with pytest.raises(NumericalError, match=r"step 4: .*Trajectories: 000004-00000-000\. More than .* = 2 steps"):
        run.loop.run()
    assert [event["trajectory_ids"] for event in events(run, "bad_step")] == [
        [f"{step:06d}-00000-000"] for step in (2, 3, 4)
    ]


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_asked_to_end_a_run_saves_what_it_learned_and_goes_on_from_there(tmp_path, undisturbed, sent):
    ask = At(4, lambda: os.kill(os.getpid(), sent))
    run = FakeRun(
        tmp_path, watchers=[ask], run={"steps": STEPS}, algorithm=PPO["algorithm"], checkpoint={"every_steps": 99}
    )
    with run.interruption.listening(), pytest.raises(InterruptedRunError) as ended:
        run.loop.run()
    assert ended.value.exit_code == 128 + sent
    rest = FakeRun(tmp_path, run={"steps": STEPS}, **PPO)
    assert f"step {rest.progress.step} is saved" in str(ended.value)
    assert 0 < rest.progress.step < STEPS
    rest.loop.run()
    check(rest, undisturbed)


def test_a_save_that_takes_longer_than_the_grace_ends_all_the_same(tmp_path):
    run = FakeRun(
        tmp_path, faults={"learner": (0, "snapshot", "hang")}, run={"steps": STEPS}, recovery={"grace_s": 2.0},
        work_s=0.1, checkpoint={"every_steps": 99}, watchers=[At(3, lambda: os.kill(os.getpid(), signal.SIGTERM))],
    )  # fmt: skip
    with run.interruption.listening(), pytest.raises(InterruptedRunError, match="SIGTERM: no time to save"):
        run.loop.run()
    run.roles.learner.kill()


@pytest.mark.parametrize("workers", [1, 2])
def test_prompts_that_no_worker_can_answer_are_left_out_and_noted(tmp_path, workers):
    """Three in one step are more than `recovery.max_failures` would allow, if they were failures of workers."""
    run = FakeRun(
        tmp_path, poison={0, 1, 2}, run={"steps": 5}, rollout={"workers": workers},
        recovery={"max_failures": 3 if workers == 1 else 0, "backoff_s": 0.0},
    )  # fmt: skip
    run.loop.run()
    rejected = {rejection.prompt_id for rejection in Journal(run.directory.trajectories).rejections()}
    assert rejected == {"poison0", "poison1", "poison2"}
    trained = [id_ for _, ids in run.history()[1] for id_ in ids]
    assert len(trained) == len(set(trained)) == 4 * (5 * 4 - len(Journal(run.directory.trajectories).rejected()))


def test_more_bad_prompts_than_allowed_end_the_run(tmp_path):
    run = FakeRun(tmp_path, poison={0, 1, 2}, run={"steps": 5}, rollout={"workers": 2}, recovery={"max_bad_prompts": 2})
    with pytest.raises(RecoveryError, match=r"3 prompts could not be answered, more than .*max_bad_prompts = 2"):
        run.loop.run()


def test_a_step_without_any_answer_is_passed_over(tmp_path):
    run = FakeRun(tmp_path, poison={0}, run={"steps": 12}, rollout={"workers": 2, "prompts_per_step": 1})
    assert run.loop.run().step == 12
    assert len(run.history()[1]) == 12 - len(Journal(run.directory.trajectories).rejected()) < 12


def test_a_worker_that_raises_what_another_one_answers_is_replaced(tmp_path, undisturbed):
    """It answers pings, so it looks well; every one of its calls raises."""
    run = FakeRun(
        tmp_path, faults={"reference": (0, "logprobs", "raise", 2)}, run={"steps": STEPS}, reference={"workers": 2},
        recovery={"max_failures": 1, "backoff_s": 0.0}, work_s=0.1, **PPO,
    )  # fmt: skip
    run.loop.run()
    check(run, undisturbed)
    assert any("reference 1 could answer" in event["message"] for event in events(run, "failure"))
    assert [(event["role"], event["rank"]) for event in events(run, "recovered")] == [("reference", 0)]


def test_a_kl_that_is_not_a_number_leaves_the_coefficient_as_it_was(tmp_path):
    ppo = {"kind": "ppo", "kl_coefficient": 0.1, "kl_controller": {"target_nats": 6.0, "horizon_episodes": 160}}
    run = FakeRun(tmp_path, faults={"learner": (0, "learn", "nan", 1)}, run={"steps": 1}, algorithm=ppo)
    assert run.loop.run().kl_coefficient == 0.1


def test_with_staleness_no_step_learns_from_older_answers_than_allowed_though_training_goes_back(tmp_path, planned):
    planned(Fault("learner", 0, "learn", 6, after_s=0.02))
    run = FakeRun(
        tmp_path, work_s=0.1, run={"steps": 12}, rollout={"workers": 2, "max_staleness": 2},
        checkpoint={"every_steps": 4}, recovery={"backoff_s": 0.0},
    )  # fmt: skip
    run.loop.run()
    assert events(run, "recovered")
    journal = faults.check_journal(run.directory.trajectories, 12, 4, 4)
    oldest = {step: min(v for row in journal.rows(step) for v in row["policy_versions"]) for step in range(1, 13)}
    assert all(step - 1 - version <= 2 for step, version in oldest.items()), oldest
