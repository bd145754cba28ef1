from rayrlhf.config.jobs import RLJob
from rayrlhf.config.load import validate_job
from rayrlhf.jobs.doctor.findings import Finding, Level
from rayrlhf.jobs.doctor.party import HERE, Room
from rayrlhf.jobs.doctor.step import NODE_LABEL, StepFacts, StepPlan, judge_step, plan_step, values
from rayrlhf.stages.bundles import role_bundles

HEAD, WORKER = Room("head", 0.0, 0.0), Room("worker", 4.0, 1.0)


def plan(*room, address="head:6379", own="head", is_shared=True, on_cpus=True):
    return plan_step(StepPlan("/tmp/step", address), room, own, is_shared=is_shared, on_cpus=on_cpus)


def test_on_this_machine_and_in_a_shared_folder_any_node_may_take_part():
    assert plan(Room(HERE, 2.0, 0.0), address=None, own=HERE, is_shared=False) == StepPlan("/tmp/step")
    assert plan(HEAD, WORKER) == StepPlan("/tmp/step", "head:6379")


def test_without_a_shared_folder_the_step_stays_on_the_own_node_or_is_not_run():
    there = plan(HEAD, WORKER, own="worker", is_shared=False)
    assert there.labels == {NODE_LABEL: "worker"}
    assert all(b.labels == {NODE_LABEL: "worker"} for b in role_bundles(validate_job(RLJob, values(there))))
    refused = plan(HEAD, WORKER, is_shared=False)
    assert isinstance(refused, Finding)
    assert refused.level is Level.YELLOW


def test_vllm_for_cuda_needs_two_gpus():
    assert isinstance(plan(WORKER, on_cpus=False), Finding)
    with_two = plan(WORKER, WORKER, on_cpus=False)
    assert [b.gpus for b in role_bundles(validate_job(RLJob, values(with_two))) if b.role != "reward"] == [1.0, 1.0]


def test_a_step_that_failed_is_red_with_its_last_words():
    found = judge_step(StepFacts(trouble="RuntimeError: no kernel"), "here")
    assert (found.level, found.found) == (Level.RED, "here: RuntimeError: no kernel")
