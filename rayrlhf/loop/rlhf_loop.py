"""The RLHF loop: rollout, score, learn, weight sync, commit. One loop for every algorithm, synchronous or not.

    prompts ──▶ rollout workers ──▶ groups ──▶ reward ∥ reference ∥ critic ∥ learner (old log-probabilities)
                      ▲                                      │ scores
                      └──── weight sync ◀──── learner ∥ critic update

The driver holds ids, counts and metrics; trajectories and scores pass between roles as Ray objects.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rayrlhf.algorithms.kl import AdaptiveKL
from rayrlhf.config.jobs import RLJob
from rayrlhf.config.sections import PPOConfig
from rayrlhf.errors import RewardError
from rayrlhf.loop.checkpoint import CheckpointStore
from rayrlhf.loop.progress import Progress
from rayrlhf.loop.stream import Group, RolloutStream
from rayrlhf.observability.timeline import Timeline
from rayrlhf.observability.trackers import Tracker
from rayrlhf.role_types import (
    CriticWorker,
    LearnerWorker,
    LearnRequest,
    ReferenceWorker,
    RewardWorker,
    RolloutWorker,
    Sample,
)
from rayrlhf.runtime.worker_group import Pending, WorkerGroup, gather, wait_for
from rayrlhf.weight_sync.push import WeightSync


@dataclass(frozen=True, slots=True)
class Roles:
    """The worker groups of a run; an algorithm may do without a reference or a critic."""

    rollout: WorkerGroup[RolloutWorker]
    reward: WorkerGroup[RewardWorker]
    learner: WorkerGroup[LearnerWorker]
    reference: WorkerGroup[ReferenceWorker] | None
    critic: WorkerGroup[CriticWorker] | None


@dataclass(slots=True)
class StepRecord:
    """What one step showed so far: metrics by `phase/name_unit`, and samples for people."""

    metrics: dict[str, float] = field(default_factory=dict)
    samples: list[Sample] = field(default_factory=list)


@dataclass(slots=True)
class RLHFLoop:
    """Orchestrates one run; its whole state between steps is `progress`."""

    job: RLJob
    roles: Roles
    stream: RolloutStream
    sync: WeightSync
    checkpoints: CheckpointStore
    trackers: Sequence[Tracker]
    timeline: Timeline
    progress: Progress

    def run(self) -> Progress:
        """All steps that are left; returns the final progress."""
        self.sync.connect()
        self.sync.push(self.progress.version)
        while self.progress.step < self.job.run.steps:
            record = StepRecord()
            with self._phase("rollout", record):
                groups = self.stream.next(self.progress.step, self.job.run.phase_timeout_s)
            with self._phase("score", record):
                scores = self._score(groups)
            with self._phase("learn", record):
                record.metrics |= self._learn(groups, scores)
            with self._phase("weight_sync", record):
                proof = self.sync.push(self.progress.version + 1)
                record.metrics["weight_sync/logprob_difference_max_nats"] = proof.max_logprob_difference_nats
            with self._phase("commit", record):
                record.samples = self._commit(groups, scores, record)
            self._log(groups, record)
            self._save_if_due()
        return self.progress

    def _score(self, groups: Sequence[Group]) -> list[Pending[Any]]:
        """Reward, reference, critic and learner side by side; returns references to their scores."""
        refs = [group.trajectories for group in groups]
        reward, reference = self.roles.reward, self.roles.reference
        pending: list[Pending[Any]] = []
        for worker in range(min(len(reward), len(refs))):
            pending.append(reward.start_on(worker, RewardWorker.score, *refs[worker :: len(reward)]))
        for worker in range(min(len(reference), len(refs)) if reference else 0):
            assert reference is not None
            pending.append(reference.start_on(worker, ReferenceWorker.logprobs, *refs[worker :: len(reference)]))
        if self.roles.critic:
            pending += self.roles.critic.start(CriticWorker.values, *refs)
        pending += self.roles.learner.start(LearnerWorker.logprobs, *refs)
        return self._finished(pending, "score")

    def _finished(self, pending: list[Pending[Any]], phase: str) -> list[Pending[Any]]:
        """Wait for calls without fetching what they return."""
        wait_for(pending, self.job.run.phase_timeout_s, f"{phase} of step {self.progress.step + 1}")
        return pending

    def _learn(self, groups: Sequence[Group], scores: Sequence[Pending[Any]]) -> dict[str, float]:
        """Learner and critic update side by side; all ranks report the same metrics, so rank 0's are kept."""
        request = LearnRequest(self.progress.step, self.progress.kl_coefficient)
        objects = [group.trajectories for group in groups] + [score.data for score in scores]
        updates = self.roles.learner.start(LearnerWorker.learn, request, len(groups), *objects)
        if self.roles.critic:
            updates += self.roles.critic.start(CriticWorker.learn, request, len(groups), *objects)
        results = gather(updates, self.job.run.phase_timeout_s, f"learn of step {self.progress.step + 1}")
        metrics = results[0] | (results[len(self.roles.learner)] if self.roles.critic else {})
        if metrics["reward/failed_share"] > self.job.reward.max_failed_share:
            raise RewardError(
                f"step {self.progress.step + 1}: {metrics['reward/failed_share']:.0%} of the rewards failed, more than "
                f"reward.max_failed_share = {self.job.reward.max_failed_share:.0%}. {self._reward_failure()}"
            )
        return metrics | {"kl/coefficient": self.progress.kl_coefficient}

    def _reward_failure(self) -> str:
        asked = gather(self.roles.reward.start(RewardWorker.last_failure), self.job.run.phase_timeout_s, "reward")
        return next((f"The last failure: {reason.strip()}" for reason in asked if reason), "")

    def _commit(self, groups: Sequence[Group], scores: Sequence[Pending[Any]], record: StepRecord) -> list[Sample]:
        """Journal the step and move the cursor."""
        objects = [group.trajectories for group in groups] + [score.data for score in scores]
        written = self.roles.learner.start_on(0, LearnerWorker.commit, self.progress.step + 1, len(groups), *objects)
        (samples,) = gather([written], self.job.run.phase_timeout_s, f"commit of step {self.progress.step + 1}")
        self.progress = self.progress.after_step(self._next_kl_coefficient(groups, record.metrics))
        return samples

    def _save_if_due(self) -> None:
        """A checkpoint, after all that belongs to its steps is written: a run resumed from it misses nothing."""
        last = self.progress.step == self.job.run.steps
        if last or self.progress.step % self.job.checkpoint.every_steps == 0:
            with self.timeline.span("checkpoint", self.progress.step):
                self.checkpoints.save(self.progress, self._save)

    def _save(self, folder: Path) -> None:
        saves = self.roles.learner.start(LearnerWorker.save, str(folder / "policy"))
        if self.roles.critic:
            saves += self.roles.critic.start(CriticWorker.save, str(folder / "critic"))
        gather(saves, self.job.run.phase_timeout_s, f"checkpoint of step {self.progress.step}")

    def _next_kl_coefficient(self, groups: Sequence[Group], metrics: dict[str, float]) -> float:
        algorithm = self.job.algorithm
        if not isinstance(algorithm, PPOConfig) or algorithm.kl_controller is None:
            return self.progress.kl_coefficient
        controller = AdaptiveKL(algorithm.kl_controller.target_nats, algorithm.kl_controller.horizon_episodes)
        episodes = sum(len(group.info.trajectory_ids) for group in groups)
        return controller.update(self.progress.kl_coefficient, metrics["kl/sequence_nats"], episodes)

    @contextmanager
    def _phase(self, name: str, record: StepRecord) -> Iterator[None]:
        started = time.monotonic()
        with self.timeline.span(name, self.progress.step + 1):
            yield
        record.metrics[f"time/{name}_s"] = time.monotonic() - started

    def _log(self, groups: Sequence[Group], record: StepRecord) -> None:
        tokens = sum(sum(group.info.response_tokens) for group in groups)
        oldest = min(group.info.oldest_version for group in groups)
        record.metrics["rollout/response_tokens"] = tokens
        record.metrics["rollout/tokens_per_s"] = tokens / max(record.metrics["time/rollout_s"], 1e-9)
        record.metrics["rollout/staleness_steps"] = self.progress.version - 1 - oldest
        for tracker in self.trackers:
            tracker.log(self.progress.step, record.metrics, record.samples)
