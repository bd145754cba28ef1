"""Seconds of each phase of a step, from the job's geometry and a machine's coefficients.

    rollout ─▶ score (reward ∥ reference ∥ critic ∥ learner) ─▶ learn (learner ∥ critic) ─▶ weight sync ─▶ commit

A phase is as long as its slowest role. Roles that share cores are also no faster than all their work on all cores;
roles that share a GPU take turns. With `max_staleness` > 0 and GPUs, generation overlaps with everything else.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from rayrlhf.config.jobs import RLJob
from rayrlhf.config.sections import PPOConfig, ReferenceConfig, RewardConfig, TrainingConfig
from rayrlhf.jobs.plan import work
from rayrlhf.jobs.plan.costs import seconds
from rayrlhf.jobs.plan.fitting import device_of
from rayrlhf.jobs.plan.geometry import MicroBatch, StepGeometry
from rayrlhf.jobs.plan.hardware import Machine
from rayrlhf.jobs.plan.memory import ITEMSIZE, cache_tokens
from rayrlhf.jobs.plan.model_shape import ModelShape
from rayrlhf.jobs.plan.models import JobModels

PHASES = ("rollout", "score", "learn", "weight_sync", "commit", "between")
"""`between`: logging, and a checkpoint's share: what the loop waits for, and cores that the writing takes."""
CROWDED_PHASES = {"rollout": "score", "score": "score", "learn": "learn"}
"""Phases that other models slow down, and whose work it is that does: answers are scored as they come."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """Seconds of one step."""

    phases: Mapping[str, float]
    overlaps: bool
    """Whether generation runs beside the other phases."""

    @property
    def step(self) -> float:
        """A whole step."""
        others = sum(s for name, s in self.phases.items() if name != "rollout")
        return max(self.phases["rollout"], others) if self.overlaps else self.phases["rollout"] + others


@dataclass(frozen=True, slots=True)
class _Task:
    """One role's share of a phase: seconds of each of `count` processes."""

    seconds: float
    threads: int
    count: int
    gpus: float


@dataclass(frozen=True, slots=True)
class Predictor:
    """One job on one machine."""

    job: RLJob
    models: JobModels
    geometry: StepGeometry
    machine: Machine

    def predict(self) -> Prediction:
        """All phases, with what each costs besides its work."""
        phases = {
            "rollout": self._rollout(),
            "score": self._together(self._score_tasks()),
            "learn": self._together(self._learn_tasks()),
            "weight_sync": self._weight_sync(),
            "commit": 0.0,
            "between": self._saving() / self.job.checkpoint.every_steps,
        }
        besides = {name: self.machine.fixed.get(name, 0.0) for name in phases}
        for name in self._crowded:
            besides[name] += self.machine.crowding.get(name, 0.0) * phases[CROWDED_PHASES[name]]
        whole = {name: s + besides[name] for name, s in phases.items()}
        return Prediction(whole, self.job.rollout.max_staleness > 0 and self.machine.is_gpu)

    @property
    def _crowded(self) -> set[str]:
        """Phases in which more than one model computes."""
        job = self.job
        scored = job.has_critic or job.has_reference or self.models.reward is not None
        return ({"rollout", "score"} if scored else set()) | ({"learn"} if job.has_critic else set())

    @property
    def _itemsize(self) -> int:
        return ITEMSIZE[self.job.model.dtype]

    def _cost(self, kind: str, amount: work.Work, threads: int) -> float:
        return seconds(amount, self.machine.coefficients(kind, threads))

    def _rollout(self) -> float:
        config = self.job.rollout
        groups = math.ceil(config.prompts_per_step / config.workers)
        prompts = self.geometry.prompts[:: config.workers][: groups * config.samples_per_prompt]
        engines = math.ceil(config.workers / self.machine.nodes)
        threads = self._threads(config.threads, engines)
        amount = work.generation(self.models.policy, prompts, self.geometry.answer, self._concurrent(), self._itemsize)
        if not self.machine.is_gpu:
            crowding = max(1.0, engines * threads / self.machine.cores)
            return crowding * self._cost("rollout", amount, threads)
        sharded = ("weight_bytes", "matrix_flops", "prompt_flops", "cache_bytes", "logits")
        ranks = config.tensor_parallel
        return self._cost("rollout", {n: a / ranks if n in sharded else a for n, a in amount.items()}, threads)

    def _concurrent(self) -> int:
        """Sequences that one engine decodes at a time: as many as are allowed, and as the cache holds."""
        room = cache_tokens(self.job, self.models.policy, device_of(self.machine))
        longest = max(self.geometry.prompts) + self.geometry.answer
        return min(self.job.rollout.max_concurrent, max(1, int(room / longest)))

    def _score_tasks(self) -> list[_Task]:
        job, models = self.job, self.models
        tasks = [self._scored(job.learner, models.policy, head=True)]
        if job.has_critic:
            tasks.append(self._scored(job.critic, models.critic, head=False))
        scorers: list[tuple[ReferenceConfig | RewardConfig, ModelShape, bool]] = []
        scorers += [(job.reference, models.reference, True)] if job.has_reference else []
        scorers += [(job.reward, models.reward, False)] if models.reward is not None else []
        for config, shape, head in scorers:
            threads = self._threads(config.threads, job.side_by_side)
            batches = self.geometry.micro_batches(self.geometry.share(config.workers), config.micro_batch_tokens)
            took = self._passes("forward", shape, batches, threads, head)
            tasks.append(_Task(took, threads, config.workers, config.gpus))
        return tasks

    def _scored(self, config: TrainingConfig, shape: ModelShape, head: bool) -> _Task:
        threads = self._threads(config.threads, self.job.side_by_side)
        batches = self.geometry.micro_batches(self.geometry.share(config.ranks), config.micro_batch_tokens)
        took = self._passes("forward", shape, batches, threads, head)
        took += len(batches) * self._gather(config, shape, threads)
        return _Task(took, threads, config.ranks, config.gpus)

    def _learn_tasks(self) -> list[_Task]:
        tasks = [self._trained(self.job.learner, self.models.policy, head=True)]
        if self.job.has_critic:
            tasks.append(self._trained(self.job.critic, self.models.critic, head=False))
        return tasks

    def _trained(self, config: TrainingConfig, shape: ModelShape, head: bool) -> _Task:
        algorithm, threads = self.job.algorithm, self._threads(config.threads, self.job.side_by_side)
        share = self.geometry.share(config.ranks, algorithm.minibatches)
        batches = self.geometry.micro_batches(share, config.micro_batch_tokens)
        once = self._passes("backward", shape, batches, threads, head)
        if self.job.model.gradient_checkpointing:
            once += self._passes("forward", shape, batches, threads, head=False)
        once += 2 * len(batches) * self._gather(config, shape, threads)
        once += self._cost("update", work.update(shape, config.ranks, config.zero_stage), threads)
        sent = work.reduction(shape, config.ranks, config.zero_stage, self._itemsize)
        once += len(batches) * self._cost("exchange", sent, threads)  # every backward pass reduces
        once += self._pretraining(shape, config, threads) if head else 0.0
        return _Task(once * algorithm.epochs * algorithm.minibatches, threads, config.ranks, config.gpus)

    def _pretraining(self, shape: ModelShape, config: TrainingConfig, threads: int) -> float:
        """PPO-ptx: rows as long as they may be."""
        algorithm = self.job.algorithm
        if not isinstance(algorithm, PPOConfig) or algorithm.ptx_coefficient == 0:
            return 0.0
        length = min(self.job.data.max_sequence_tokens, config.micro_batch_tokens)
        rows = math.ceil(algorithm.ptx_rows / config.ranks)
        return rows * self._passes("backward", shape, [MicroBatch(1, length, length)], threads, head=True)

    def _passes(self, kind: str, shape: ModelShape, batches: list[MicroBatch], threads: int, head: bool) -> float:
        return sum(self._cost(kind, work.model_pass(shape, batch, head=head), threads) for batch in batches)

    def _gather(self, config: TrainingConfig, shape: ModelShape, threads: int) -> float:
        if config.zero_stage < 3:
            return 0.0
        return self._cost("gather", work.gathering(shape, config.ranks, self._itemsize), threads)

    def _weight_sync(self) -> float:
        threads = self._threads(self.job.learner.threads, self.job.side_by_side)
        pushed = self._cost("sync", work.push(self.models.policy, self._itemsize), self.machine.cores)
        return pushed + self._gather(self.job.learner, self.models.policy, threads)

    def _saving(self) -> float:
        """The copy, for which the loop waits, and the writing, which takes a core from roles on CPUs."""
        ranks = self.job.learner.ranks
        amount = work.update(self.models.policy, ranks, 1)
        copied = self._cost("snapshot", amount, self.machine.cores)
        if self.machine.is_gpu:
            return copied
        written = ranks * self._cost("write", amount, 1)
        return copied + written / (self.machine.cores * self.machine.nodes)

    def _threads(self, wanted: int | None, processes: int) -> int:
        """As `runtime/environment.py` shares a node's cores."""
        return wanted or max(1, self.machine.cores // processes)

    def _together(self, tasks: list[_Task]) -> float:
        if self.machine.is_gpu:
            sharing = sum(task.seconds for task in tasks if task.gpus % 1)
            return max(sharing, *(task.seconds for task in tasks if not task.gpus % 1), 0.0)
        cores = self.machine.cores * self.machine.nodes
        return max(*(t.seconds for t in tasks), sum(t.seconds * t.threads * t.count for t in tasks) / cores)
