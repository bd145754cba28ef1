"""The RLHF loop: rollout, score, learn, weight sync, commit. One loop for every algorithm, synchronous or not.

    prompts ──▶ rollout workers ──▶ groups ──▶ reward ∥ reference ∥ critic ∥ learner (old log-probabilities)
                      ▲                                      │ scores
                      └──── weight sync ◀──── learner ∥ critic update

The driver holds ids, counts and metrics; trajectories and scores pass between roles as Ray objects. Workers that fail
are put right by the supervisor inside a phase; when a training rank is lost the loop goes back to the checkpoint and
comes forward again through the journal.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from rayrlhf.algorithms.kl import AdaptiveKL
from rayrlhf.config.jobs import RLJob
from rayrlhf.config.sections import PPOConfig
from rayrlhf.errors import InterruptedRunError, NumericalError, RecoveryError, RewardError
from rayrlhf.loop.census import ANSWER_S
from rayrlhf.loop.checkpoint import CheckpointStore, read_manifest
from rayrlhf.loop.progress import Progress
from rayrlhf.loop.roles import Roles, checkpoint_part
from rayrlhf.loop.saver import CheckpointSaver
from rayrlhf.loop.stream import Group, RolloutStream
from rayrlhf.loop.supervisor import DataLostError, Supervisor, TrainingLostError, Wait
from rayrlhf.observability.timeline import Timeline
from rayrlhf.observability.trackers import Tracker
from rayrlhf.role_types import (
    CriticWorker,
    LearnerWorker,
    LearnRequest,
    ReferenceWorker,
    RewardWorker,
    Sample,
    Trainer,
)
from rayrlhf.runtime.failures import Failure, FailureKind
from rayrlhf.runtime.worker_group import Pending, answers, gather
from rayrlhf.weight_sync.proof import SyncProof


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
    supervisor: Supervisor
    checkpoints: CheckpointStore
    saver: CheckpointSaver
    trackers: Sequence[Tracker]
    timeline: Timeline
    progress: Progress
    export_to: Path
    _furthest: int = 0
    _bad_steps: set[int] = field(default_factory=set)
    _weights: int | None = None

    def run(self) -> Progress:
        """All steps that are left, then the export; returns the final progress."""
        self.supervisor.on_look_up = self.saver.poll
        self.supervisor.interruption.wait_for_saves()
        self.supervisor.workforce.census.take()
        self._furthest = self.progress.step
        while True:
            try:
                while self.progress.step < self.job.run.steps:
                    self._step()
                self._save_surely()
                self._export()
                return self.progress
            except TrainingLostError as lost:
                self._go_back(lost.failure)
            except DataLostError:
                self.stream.forget()
            except InterruptedRunError as interruption:
                raise self._save_and_end(interruption) from None

    def _step(self) -> None:
        """One step: five phases, then what is due."""
        record = StepRecord()
        self.supervisor.workforce.resize()
        self._bring_weights()
        with self._phase("rollout", record):
            groups = self.stream.next(self.progress.step, self.supervisor, self._wait("rollout", idle=True))
        if not groups:
            self._pass_over()
            return
        with self._phase("score", record):
            scores = self._score(groups)
        with self._phase("learn", record):
            record.metrics |= self._learn(groups, scores)
        with self._phase("weight_sync", record):
            self._push_if_needed(self.progress.version + 1, record)
        with self._phase("commit", record):
            record.samples = self._commit(groups, scores, record)
        self._log(groups, record)
        self._save_if_due()

    def _pass_over(self) -> None:
        """No prompt of the step could be answered (they are in `rejected.jsonl`), so there is nothing to learn."""
        self.stream.done(self.progress.step)
        self.progress = self.progress.after_step(self.progress.kl_coefficient)
        self._save_if_due()

    def _wait(self, phase: str, *, idle: bool = False, abandon: bool = False) -> Wait:
        """A phase's wait; `idle`: the learner computes nothing, so new workers can be given its weights."""
        version = self.progress.version if idle else None
        name = f"{phase} of step {self.progress.step + 1}"
        return Wait(name, self.job.run.phase_timeout_s, version, abandon or idle)

    def _bring_weights(self) -> None:
        """Before the first step that generates, the workers are given the weights of `progress`."""
        if self._weights != self.progress.version and self.stream.generates(self.progress.step):
            self._push(self.progress.version)

    def _push_if_needed(self, version: int, record: StepRecord) -> None:
        """Steps that come from the journal need no engines, so no weights travel until one is generated."""
        if self.progress.step + 1 >= self.job.run.steps or self.stream.generates(self.progress.step + 1):
            proof = self._push(version)
            record.metrics["weight_sync/logprob_difference_max_nats"] = proof.max_logprob_difference_nats
            record.metrics["weight_sync/weights_digest"] = proof.weights_digest

    def _push(self, version: int) -> SyncProof:
        self._weights = None
        proof = self.supervisor.push(version)
        self._weights = version
        return proof

    def _score(self, groups: Sequence[Group]) -> list[Pending[Any]]:
        """Reward, reference, critic and learner side by side; returns references to their scores."""
        refs = [group.trajectories for group in groups]
        idle = self._wait("score", idle=True)
        pending: list[Pending[Any]] = self._rewards(refs, idle)
        if (reference := self.roles.reference) is not None:
            live = self.supervisor.workers(reference, idle)[: len(refs)]
            for place, rank in enumerate(live):
                pending.append(reference.start_on(rank, ReferenceWorker.logprobs, *refs[place :: len(live)]))
        if self.roles.critic:
            pending += self.roles.critic.start(CriticWorker.values, *refs)
        pending += self.roles.learner.start(LearnerWorker.logprobs, *refs)
        return self.supervisor.finish(pending, self._wait("score", abandon=True))

    def _rewards(self, refs: Sequence[Any], wait: Wait) -> list[Pending[Any]]:
        """Scores of the reward workers; those of the journal where the step was committed before."""
        if self.stream.is_journalled(self.progress.step):
            return [self.roles.learner.start_on(0, LearnerWorker.journalled_rewards, self.progress.step + 1)]
        reward = self.roles.reward
        live = self.supervisor.workers(reward, wait)[: len(refs)]
        return [reward.start_on(rank, RewardWorker.score, *refs[i :: len(live)]) for i, rank in enumerate(live)]

    def _learn(self, groups: Sequence[Group], scores: Sequence[Pending[Any]]) -> dict[str, float]:
        """Learner and critic update side by side; all ranks report the same metrics, so rank 0's are kept."""
        request = LearnRequest(self.progress.step, self.progress.kl_coefficient)
        objects = [group.trajectories for group in groups] + [score.data for score in scores]
        updates = self.roles.learner.start(LearnerWorker.learn, request, len(groups), *objects)
        if self.roles.critic:
            updates += self.roles.critic.start(CriticWorker.learn, request, len(groups), *objects)
        results = gather(self.supervisor.finish(updates, self._wait("learn")), 60, "learn")
        metrics = results[0] | (results[len(self.roles.learner)] if self.roles.critic else {})
        if metrics["reward/failed_share"] > self.job.reward.max_failed_share:
            raise RewardError(
                f"step {self.progress.step + 1}: {metrics['reward/failed_share']:.0%} of the rewards failed, more than "
                f"reward.max_failed_share = {self.job.reward.max_failed_share:.0%}. {self._reward_failure()}"
            )
        self._count_bad_steps(metrics)
        return metrics | {"kl/coefficient": self.progress.kl_coefficient}

    def _count_bad_steps(self, metrics: dict[str, float]) -> None:
        """Updates that were not applied are noted; too many end the run, with the trajectories to look at."""
        skipped = [g for g in self.roles.training if metrics.get(f"{checkpoint_part(g.role)}/skipped_updates")]
        if not skipped:
            return
        self._bad_steps.add(self.progress.step)  # once, however often it is learned again
        asked = [group.start_on(0, Trainer.bad_trajectories) for group in skipped]
        found = gather(self.supervisor.finish(asked, self._wait("learn")), 60, "learn")
        ids = sorted({id_ for bad in found for id_ in bad})
        who, where = " and ".join(group.role for group in skipped), self.export_to.parent / "set_aside"
        message = (
            f"step {self.progress.step + 1}: NaN or infinite numbers, so {who} did not take every update; "
            f"the batch is in {where}. Trajectories: {', '.join(ids)}"
        )
        self.supervisor.workforce.events.record("bad_step", message, step=self.progress.step + 1, trajectory_ids=ids)
        if len(self._bad_steps) > (limit := self.job.recovery.max_bad_steps):
            raise NumericalError(f"{message}. More than recovery.max_bad_steps = {limit} steps were like this")

    def _reward_failure(self) -> str:
        asked = answers(self.roles.reward.start(RewardWorker.last_failure), ANSWER_S)
        return next((f"The last failure: {reason.strip()}" for _, reason in asked if reason), "")

    def _commit(self, groups: Sequence[Group], scores: Sequence[Pending[Any]], record: StepRecord) -> list[Sample]:
        """Journal the step, unless it has been, and move the cursor."""
        objects = [group.trajectories for group in groups] + [score.data for score in scores]
        samples: list[Sample] = []
        if not self.stream.is_journalled(self.progress.step):
            step = self.progress.step + 1
            written = [self.roles.learner.start_on(0, LearnerWorker.commit, step, len(groups), *objects)]
            (samples,) = gather(self.supervisor.finish(written, self._wait("commit")), 60, "commit")
        self.stream.done(self.progress.step)
        self.progress = self.progress.after_step(self._next_kl_coefficient(groups, record.metrics))
        if self.progress.step > self._furthest:
            self._furthest = self.progress.step
            self.supervisor.workforce.policy.progressed()
        return samples

    def _save_if_due(self) -> None:
        """A checkpoint, after all that belongs to its steps is written: a run resumed from it misses nothing."""
        last = self.progress.step == self.job.run.steps
        if last or self.progress.step % self.job.checkpoint.every_steps == 0:
            with self.timeline.span("checkpoint", self.progress.step):
                self._save()

    def _save(self) -> None:
        """Copy the state, unless it is saved; writing goes on in the background."""
        self._finish_saving()
        if self.checkpoints.has(self.progress.step):
            return
        self.supervisor.finish(self.saver.copies(), self._wait("checkpoint"))
        self.saver.write(self.progress, self.stream.in_flight())

    def _save_surely(self) -> None:
        """The last step is always saved; saving that fails again and again is a RecoveryError."""
        self._finish_saving()
        while not self.checkpoints.has(self.progress.step):
            self._save()
            self._finish_saving()

    def _finish_saving(self) -> None:
        deadline = time.monotonic() + self.job.run.phase_timeout_s
        while self.saver.busy and time.monotonic() < deadline:
            self.saver.poll(0.5)
        self.saver.give_up_if_busy(f"not written within run.phase_timeout_s = {self.job.run.phase_timeout_s:.0f} s")

    def _go_back(self, failure: Failure) -> None:
        """Training state is lost: load the newest checkpoint; the journal has what was learned since."""
        self.saver.poll()
        self.saver.abandon()
        if failure.kind is FailureKind.LOST:
            self.stream.forget()
        folder = self.supervisor.rebuild(failure, self._newest_whole)
        first = Progress(0, 0, self.job.algorithm.kl_coefficient)
        self.progress = read_manifest(folder).progress if folder else first
        self._weights = None

    def _newest_whole(self) -> Path | None:
        return self.checkpoints.newest_whole(partial(self.supervisor.workforce.events.record, "damaged"))

    def _save_and_end(self, interruption: InterruptedRunError) -> InterruptedRunError:
        """Asked to end: save what is learned, where the learner is at rest and there is time."""
        asked = self.supervisor.interruption
        if asked.due:
            return interruption
        try:
            self._save_surely()
        except (TrainingLostError, RecoveryError) as error:
            return asked.error(f"nothing more was saved ({error}); --resume auto goes on from the last checkpoint")
        return asked.error(f"step {self.progress.step} is saved, go on with --resume auto")

    def _export(self) -> None:
        """The policy as a Hugging Face model."""
        with self.timeline.span("export", self.job.run.steps):
            calls = self.roles.learner.start(LearnerWorker.export, str(self.export_to))
            self.supervisor.finish(calls, self._wait("export"))

    def _next_kl_coefficient(self, groups: Sequence[Group], metrics: dict[str, float]) -> float:
        algorithm = self.job.algorithm
        kl_nats = metrics.get("kl/sequence_nats", math.nan)
        if not isinstance(algorithm, PPOConfig) or algorithm.kl_controller is None or not math.isfinite(kl_nats):
            return self.progress.kl_coefficient
        controller = AdaptiveKL(algorithm.kl_controller.target_nats, algorithm.kl_controller.horizon_episodes)
        episodes = sum(len(group.info.trajectory_ids) for group in groups)
        return controller.update(self.progress.kl_coefficient, kl_nats, episodes)

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
        record.metrics |= self.supervisor.workforce.census.take()
        for tracker in self.trackers:
            tracker.log(self.progress.step, record.metrics, record.samples)
