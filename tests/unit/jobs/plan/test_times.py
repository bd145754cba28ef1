"""Laws of predicted time: more to do never takes less, more hardware never more."""

import itertools
from dataclasses import replace

import pytest

from rayrlhf.jobs.plan.geometry import step_geometry
from rayrlhf.jobs.plan.times import Predictor
from tests.unit.jobs.plan.shapes import LAPTOP, h100s, job, lengths, models


def step(config, machine, answer=64.0, prompt=32):
    return Predictor(config, models(), step_geometry(config, lengths(answer, prompt)), machine).predict()


MACHINES = [(LAPTOP, 0.0), (h100s(), 1.0)]


@pytest.mark.parametrize(("machine", "gpus"), MACHINES)
def test_longer_answers_never_take_less_time(machine, gpus):
    times = [step(job(gpus=gpus), machine, answer) for answer in (1, 2, 5, 17, 40, 64)]
    for shorter, longer in itertools.pairwise(times):
        assert all(longer.phases[name] >= shorter.phases[name] for name in shorter.phases)
        assert longer.step > shorter.step


@pytest.mark.parametrize(("machine", "gpus"), MACHINES)
def test_more_prompts_take_longer(machine, gpus):
    times = [step(job(gpus=gpus, rollout={"prompts_per_step": n}), machine).step for n in (4, 8, 64, 256)]
    assert times == sorted(times)
    assert len(set(times)) == 4


def test_more_gpus_make_their_own_phase_faster():
    slow, fast = (step(job(gpus=1.0, learner={"ranks": n}), h100s()) for n in (1, 4))
    assert fast.phases["learn"] < slow.phases["learn"]
    slow, fast = (step(job(gpus=1.0, rollout={"workers": n}), h100s()) for n in (1, 4))
    assert fast.phases["rollout"] < slow.phases["rollout"]


def test_a_small_cache_decodes_fewer_sequences_at_a_time():
    config = {"prompts_per_step": 64, "samples_per_prompt": 8, "max_tokens": 512, "max_concurrent": 512}
    shares = (0.05, 0.1, 0.5)
    times = [
        step(job(gpus=1.0, rollout={**config, "gpu_memory_share": s}), h100s(), 512).phases["rollout"] for s in shares
    ]
    assert times[0] > times[1] > times[2]


def test_engines_that_crowd_a_machine_are_not_faster():
    two, eight = (step(job(rollout={"workers": n}), LAPTOP).phases["rollout"] for n in (2, 8))
    assert eight >= two


def test_ppo_costs_more_than_grpo_of_the_same_size():
    ppo = job(algorithm={"kind": "ppo"})
    grpo = step(job(), LAPTOP)
    assert step(ppo, LAPTOP).phases["score"] > grpo.phases["score"]
    assert step(ppo, LAPTOP).phases["learn"] > grpo.phases["learn"]


def test_recomputing_activations_takes_longer():
    plain, again = (step(job(model={"gradient_checkpointing": on}), LAPTOP).phases["learn"] for on in (False, True))
    assert again > plain


def test_stale_rollouts_overlap_on_gpus_only():
    stale = job(gpus=1.0, rollout={"max_staleness": 1})
    plan = step(stale, h100s())
    assert plan.step == max(plan.phases["rollout"], sum(plan.phases.values()) - plan.phases["rollout"])
    plan = step(job(rollout={"max_staleness": 1}), LAPTOP)
    assert plan.step == pytest.approx(sum(plan.phases.values()))


@pytest.mark.parametrize(
    ("sections", "longer"),
    [
        ({}, set()),
        ({"algorithm": {"kl_coefficient": 0.1}}, {"rollout", "score"}),
        ({"algorithm": {"kind": "ppo"}}, {"rollout", "score", "learn"}),
    ],
)
def test_phases_in_which_several_models_compute_take_as_much_longer_as_was_measured(sections, longer):
    crowded = replace(LAPTOP, fixed={}, crowding={"rollout": 1.2, "score": 0.5, "learn": 0.25})
    config = job("float32", **sections)
    alone, together = (step(config, machine).phases for machine in (replace(LAPTOP, fixed={}), crowded))
    more = {"rollout": 1.2 * alone["score"], "score": 0.5 * alone["score"], "learn": 0.25 * alone["learn"]}
    for name, seconds in alone.items():
        assert together[name] == pytest.approx(seconds + (more[name] if name in longer else 0.0))
