import errno

import pytest

from rayrlhf.runtime.failures import Decision, Failure, FailureKind, FailurePolicy


def failure(role="rollout", kind=FailureKind.DIED, os_errno=None):
    return Failure(kind, role, 1, "generate", "rollout of step 3", "the actor died", os_errno)


@pytest.mark.parametrize("role", ["rollout", "reward", "reference"])
def test_a_worker_that_only_computes_is_restarted_alone(role):
    assert FailurePolicy(1, 0.0).decide(failure(role)) is Decision.RESTART


@pytest.mark.parametrize("role", ["learner", "critic"])
def test_a_rank_that_trains_takes_its_group_with_it(role):
    assert FailurePolicy(1, 0.0).decide(failure(role)) is Decision.REBUILD


def test_a_budget_counts_failures_of_a_role_without_progress():
    policy = FailurePolicy(2, 0.0)
    decisions = [policy.decide(failure()) for _ in range(2)]
    assert policy.decide(failure("reward")) is Decision.RESTART
    policy.progressed()
    decisions += [policy.decide(failure()) for _ in range(3)]
    assert decisions == [Decision.RESTART] * 4 + [Decision.STOP]
    assert "rollout failed 3 times without a finished step" in str(policy.error(failure()))
    assert "rollout of step 3: rollout 1, generate: the actor died" in str(policy.error(failure()))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG])
def test_a_full_disk_stops_the_run_at_once(number):
    policy = FailurePolicy(9, 0.0)
    assert policy.decide(failure(os_errno=number)) is Decision.STOP
    assert "Make room" in str(policy.error(failure(os_errno=number)))


def test_the_first_restart_is_at_once_and_later_ones_wait_longer_and_longer():
    waits = []
    policy = FailurePolicy(9, 2.0, max_backoff_s=5.0, sleep=waits.append)
    for _ in range(4):
        policy.decide(failure())
        policy.back_off("rollout")
    assert waits == [2.0, 4.0, 5.0]
