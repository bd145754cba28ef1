"""Memory by hand, and laws that every plan keeps."""

import itertools

import pytest

from rayrlhf.jobs.plan.fitting import SharedGPU, device_of, pack, problems
from rayrlhf.jobs.plan.geometry import MicroBatch, step_geometry
from rayrlhf.jobs.plan.memory import (
    GIB,
    MIB,
    ProcessMemory,
    activations,
    cache_tokens,
    job_memory,
    logits,
    training_state,
)
from tests.unit.jobs.plan.shapes import BILLION, LAPTOP, h100s, job, lengths, models

G = 10**9


@pytest.mark.parametrize(
    ("ranks", "stage", "itemsize", "expected"),
    [
        (1, 0, 4, {"weights": 4 * G, "master weights": 0, "optimizer": 8 * G, "gradients": 4 * G}),
        (4, 0, 4, {"weights": 4 * G, "master weights": 0, "optimizer": 8 * G, "gradients": 4 * G}),
        (4, 1, 2, {"weights": 2 * G, "master weights": G, "optimizer": 2 * G, "gradients": 4 * G}),
        (4, 2, 2, {"weights": 2 * G, "master weights": G, "optimizer": 2 * G, "gradients": G}),
        (8, 3, 2, {"weights": G / 4, "master weights": G / 2, "optimizer": G, "gradients": G / 2}),
        (1, 2, 4, {"weights": 4 * G, "master weights": 4 * G, "optimizer": 8 * G, "gradients": 4 * G}),
    ],
)
def test_training_state_of_a_billion_parameters_by_hand(ranks, stage, itemsize, expected):
    assert training_state(BILLION, ranks, stage, itemsize) == expected


def test_plain_sgd_keeps_no_moments():
    assert training_state(BILLION, 2, 2, 4, "sgd")["optimizer"] == 0


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_more_ranks_never_need_more_optimizer_memory_per_rank(stage):
    states = [training_state(BILLION, ranks, stage, 2) for ranks in (1, 2, 4, 8, 64)]
    for fewer, more in itertools.pairwise(states):
        assert all(more[part] <= fewer[part] for part in fewer)
        assert more["optimizer"] < fewer["optimizer"]


def test_a_higher_stage_never_needs_more_state():
    sums = [sum(training_state(BILLION, 8, stage, 2).values()) for stage in (1, 2, 3)]
    assert sums == sorted(sums, reverse=True)


def test_activations_and_logits_by_hand():
    batch = MicroBatch(4, 100, 200)
    layer = 9 * 2048 + 2 * 2048 + 4 * 8192
    assert activations(BILLION, batch, 2, False) == 2 * 400 * 25 * layer
    assert activations(BILLION, batch, 2, True) == 2 * 400 * (24 * 2048 + 2 * layer)
    assert logits(BILLION, batch, 4) == 4 * 4 * 200 * 32_000
    assert logits(BILLION, MicroBatch(40, 100, 4000), 4) == 4 * 4 * 1024 * 32_000  # a chunk at a time


def test_a_vllm_engine_takes_its_share_of_the_gpu():
    machine = h100s()
    one = job(gpus=1.0, rollout={"gpu_memory_share": 0.5})
    rollout = job_memory(one, models(), step_geometry(one, lengths()), device_of(machine))[0]
    bucket = 256 * MIB
    assert rollout.parts["weights"] + rollout.parts["cache"] == pytest.approx(0.5 * 80e9)
    assert rollout.total == pytest.approx(0.5 * 80e9 + bucket + 1500 * MIB)
    per_token = 2 * 2 * 2048 * 24
    assert cache_tokens(one, models().policy, device_of(machine)) == pytest.approx((40e9 - 2 * G) / per_token)


def test_a_cpu_engine_has_the_cache_that_is_asked_for():
    one = job("float32", rollout={"kv_cache_gib": 3})
    rollout = job_memory(one, models(), step_geometry(one, lengths()), device_of(LAPTOP))[0]
    assert rollout.parts["cache"] == 3 * GIB


def test_fractions_share_a_gpu_and_whole_ones_do_not():
    config = job(
        gpus=1.0, algorithm={"kind": "ppo"}, critic={"gpus": 1.0}, reference={"gpus": 0.5}, reward={"gpus": 0.5}
    )
    memory = job_memory(config, models(), step_geometry(config, lengths()), device_of(h100s()))
    used = pack(memory, 1)
    assert sorted(sorted(gpu.roles) for gpu in used) == [["critic"], ["learner"], ["reference", "reward"], ["rollout"]]
    assert isinstance(used[0], SharedGPU)


def found(config, machine):
    memory = job_memory(config, models(), step_geometry(config, lengths()), device_of(machine))
    return problems(config, models(), memory, machine)


def test_what_does_not_fit_names_the_role_and_the_key():
    assert found(job(gpus=1.0), h100s()) == []
    (message,) = found(job(gpus=1.0, rollout={"gpu_memory_share": 0.02}), h100s())
    assert "rollout.gpu_memory_share" in message
    (message,) = found(job(gpus=1.0, learner={"ranks": 8}), h100s())
    assert message == "9 GPUs are needed, 8 are there: lower rollout.workers or learner.ranks"
    (message,) = found(job(gpus=1.0, learner={"micro_batch_tokens": 10**6}, rollout={"prompts_per_step": 400}), h100s())
    assert message.startswith("learner:")
    assert "learner.micro_batch_tokens" in message
    (message,) = found(job("float32"), LAPTOP)
    assert "GiB are usable" in message
    assert "learner.zero_stage" in message


def test_reservations_above_the_cores_are_a_problem():
    small = job("float32", rollout={"cpus": 4.0})
    assert any("all roles reserve" in message for message in found(small, LAPTOP))


@pytest.mark.parametrize(("each", "fits"), [(37e9, True), (39e9, False)])
def test_roles_that_share_a_gpu_have_to_fit_together(each, fits):
    """An H100 has 80 GB, 76 of them usable."""
    memory = [ProcessMemory(role, 1, 0.5, {"weights": each}, f"{role}.key") for role in ("reference", "reward")]
    found = problems(job(gpus=1.0), models(), memory, h100s())
    assert (found == []) is fits
    assert all("reference and reward" in message and "reference.key; reward.key" in message for message in found)
