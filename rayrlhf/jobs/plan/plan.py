"""A plan: one job on one machine, its memory, its times, what does not fit, and what would be faster.

    job + machine ──▶ geometry, memory, times ──▶ Plan ──▶ report
                └──▶ jobs that differ in a few keys ──▶ the faster ones that fit

Alternatives are found by changing one thing after another, always from the fastest job that fits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rayrlhf.config.jobs import RLJob
from rayrlhf.config.load import validate_job
from rayrlhf.errors import ConfigError
from rayrlhf.jobs.plan.fitting import device_of, pack, problems
from rayrlhf.jobs.plan.geometry import Lengths, StepGeometry, step_geometry
from rayrlhf.jobs.plan.hardware import Machine
from rayrlhf.jobs.plan.memory import ProcessMemory, cache_tokens, job_memory
from rayrlhf.jobs.plan.models import JobModels
from rayrlhf.jobs.plan.times import Prediction, Predictor

WORTH = 0.03
"""How much faster an alternative has to be."""
MOST = 5
ROUNDS = 4


@dataclass(frozen=True, slots=True)
class Plan:
    """What is known of a job before it runs."""

    job: RLJob
    geometry: StepGeometry
    memory: tuple[ProcessMemory, ...]
    times: Prediction
    problems: tuple[str, ...]
    gpus: int
    cache_tokens: float

    @property
    def fits(self) -> bool:
        """Whether all roles fit."""
        return not self.problems


@dataclass(frozen=True, slots=True)
class Alternative:
    """Overrides that make the job faster, or make it fit."""

    overrides: tuple[str, ...]
    plan: Plan


def make_plan(job: RLJob, models: JobModels, lengths: Lengths, machine: Machine) -> Plan:
    """The plan of a job; never raises for what does not fit."""
    geometry = step_geometry(job, lengths)
    device = device_of(machine)
    memory = job_memory(job, models, geometry, device)
    return Plan(
        job=job,
        geometry=geometry,
        memory=tuple(memory),
        times=Predictor(job, models, geometry, machine).predict(),
        problems=tuple(problems(job, models, memory, machine)),
        gpus=len(pack(memory, job.rollout.tensor_parallel)),
        cache_tokens=cache_tokens(job, models.policy, device),
    )


def alternatives(start: Plan, models: JobModels, lengths: Lengths, machine: Machine) -> list[Alternative]:
    """Jobs that learn the same from the same step and are faster, the fastest first; where the job itself does not
    fit, any that do.
    """
    found: dict[tuple[str, ...], Plan] = {}
    best, chosen = start, dict[str, Any]()
    for _ in range(ROUNDS):
        changes = _changes(best, machine)
        tried = [(keys, plan) for keys in changes if (plan := _try(best.job, keys, models, lengths, machine))]
        for keys, plan in tried:
            if plan.fits and (not start.fits or plan.times.step < start.times.step * (1 - WORTH)):
                found.setdefault(_lines(start.job, chosen | keys), plan)
        better = [(keys, plan) for keys, plan in tried if _rank(plan) < _rank(best)]
        if not better:
            break
        keys, best = min(better, key=lambda item: _rank(item[1]))
        chosen |= keys
    return _worth_showing(found)


def _worth_showing(found: Mapping[tuple[str, ...], Plan]) -> list[Alternative]:
    """The fastest first; a change that brings nothing beside others is not shown with them."""
    simple: list[Alternative] = []
    for lines, plan in sorted(found.items(), key=lambda item: (len(item[0]), item[1].times.step)):
        fewer = (other for other in simple if set(other.overrides) < set(lines))
        if all(plan.times.step < other.plan.times.step * (1 - WORTH / 3) for other in fewer):
            simple.append(Alternative(lines, plan))
    return sorted(simple, key=lambda other: (other.plan.times.step, other.overrides))[:MOST]


def _rank(plan: Plan) -> tuple[int, float, float]:
    """Fewer problems first, then less memory while there are some, then less time."""
    most = max(p.total for p in plan.memory) if plan.problems else 0.0
    return len(plan.problems), most, plan.times.step


def _changes(plan: Plan, machine: Machine) -> Iterator[dict[str, Any]]:
    """Changes that leave what is learned in a step as it is."""
    job = plan.job
    ranks, workers = job.learner.ranks, job.rollout.workers
    for count in {workers * 2, workers + 1, max(1, workers // 2)} - {workers}:
        yield {"rollout.workers": count}
    for count in {ranks * 2, max(1, ranks // 2)} - {ranks}:
        yield {"learner.ranks": count}
    if machine.is_gpu:
        for count in (ranks * 2, ranks + 1, ranks - 1):
            yield {"learner.ranks": count, "rollout.workers": ranks + workers - count}
        yield {"rollout.tensor_parallel": job.rollout.tensor_parallel * 2}
        yield {"rollout.gpu_memory_share": 0.9}
    for stage in {0, 2, 3} - {job.learner.zero_stage}:
        yield {"learner.zero_stage": stage}
    for role, section in (("learner", job.learner), ("critic", job.critic), ("reference", job.reference)):
        if role == "learner" or (role == "critic" and job.has_critic) or (role == "reference" and job.has_reference):
            for tokens in (section.micro_batch_tokens * 2, section.micro_batch_tokens // 2):
                yield {f"{role}.micro_batch_tokens": tokens}
    yield {"model.gradient_checkpointing": not job.model.gradient_checkpointing}
    if plan.geometry.trajectories / workers > job.rollout.max_concurrent:
        yield {"rollout.max_concurrent": job.rollout.max_concurrent * 2}


def _try(job: RLJob, keys: Mapping[str, Any], models: JobModels, lengths: Lengths, machine: Machine) -> Plan | None:
    """The plan of a changed job; None where no such job is possible."""
    try:
        changed = with_keys(job, keys)
    except ConfigError:
        return None
    return make_plan(changed, models, lengths, machine)


def with_keys(job: RLJob, keys: Mapping[str, Any]) -> RLJob:
    """The job with some dotted keys changed, validated."""
    values = job.model_dump()
    for key, value in keys.items():
        *sections, leaf = key.split(".")
        place = values
        for section in sections:
            place = place[section]
        place[leaf] = value
    return validate_job(RLJob, values)


def _lines(start: RLJob, keys: Mapping[str, Any]) -> tuple[str, ...]:
    """Overrides as they are pasted; those that change nothing are left out."""
    values = start.model_dump()
    lines = []
    for key, value in sorted(keys.items()):
        section, leaf = key.split(".")
        if values[section][leaf] != value:
            lines.append(f"{key}={str(value).lower() if isinstance(value, bool) else value}")
    return tuple(lines)
