"""What learner and critic ranks share: a `TrainingEngine` in a process group, micro-batching, saving."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import ray
import torch
from torch import nn

from rayrlhf.algorithms.experience import ScoredStep, build_experience, rollout_metrics
from rayrlhf.algorithms.masked import Denominators
from rayrlhf.algorithms.objectives import LossTerms
from rayrlhf.config.jobs import RLJob
from rayrlhf.config.sections import TrainingConfig
from rayrlhf.data.batching import micro_batches, shuffled_minibatches, split_among_ranks
from rayrlhf.data.durable import as_path, digest_file, local_copy, local_folder
from rayrlhf.engines.process_group import join
from rayrlhf.engines.scoring import TrajectoryBatch, response_scores, trajectory_batches
from rayrlhf.role_types import LearnRequest, Rendezvous, SavedFile
from rayrlhf.roles.base import Role
from rayrlhf.runtime.environment import thread_count
from rayrlhf.types import ExperienceBatch, Trajectory

if TYPE_CHECKING:
    from rayrlhf.engines.training_state import TrainingSnapshot

WHOLE = ("first_ratio_abs_deviation", "first_clip_fraction", "skipped_updates")
"""Metrics that are not means over a step's optimizer steps."""
Objective = Callable[[nn.Module, ExperienceBatch, Denominators], LossTerms]


class TrainingRole(Role):
    """One rank of a group that trains a module together."""

    def __init__(self, job: RLJob, config: TrainingConfig, set_aside_to: str, rank: int) -> None:
        super().__init__(thread_count(config.threads, job.side_by_side))
        self._job = job
        self._config = config
        self._rank = rank
        self._set_aside_to = set_aside_to
        self._bad_ids: tuple[str, ...] = ()
        self._snapshot: TrainingSnapshot | None = None

    def address(self) -> tuple[str, int]:
        """This node's address and a port that is free on it."""
        with socket.socket() as probe:
            probe.bind(("", 0))
            return ray.util.get_node_ip_address(), probe.getsockname()[1]

    def start(self, rendezvous: Rendezvous, checkpoint: str | None) -> None:
        """Join the group and build the engine, from a checkpoint's folder where one is given."""
        from rayrlhf.engines.training import TrainingEngine
        from rayrlhf.engines.training_state import load_module_weights, load_optimizer_state

        join(rendezvous, self._rank)
        torch.manual_seed(self._job.seed)
        module = self._load()
        algorithm = self._job.algorithm
        updates = (self._job.run.steps - self._idle_steps) * algorithm.epochs * algorithm.minibatches
        with local_copy(as_path(checkpoint)) if checkpoint else nullcontext() as saved:
            if saved:
                load_module_weights(module, saved)
            self._engine = TrainingEngine(module, self._config, self._job.model.dtype, updates)
            if saved:
                load_optimizer_state(self._engine, saved)
        self._started()

    def snapshot(self) -> None:
        """Copy weights and optimizer state to host memory."""
        from rayrlhf.engines.training_state import snapshot

        self._snapshot = snapshot(self._engine)

    @ray.method(concurrency_group="io")
    def write_snapshot(self, folder: str) -> list[SavedFile]:
        """Write this rank's shard of the copy, and give the copy up."""
        taken, self._snapshot = self._snapshot, None
        assert taken is not None
        with local_folder(as_path(folder)) as local:
            file = taken.write(local)
            size, sha256 = digest_file(file)
        return [SavedFile(file.name, size, sha256)]

    def _load(self) -> nn.Module:
        raise TypeError("a training role loads its own module")

    def _started(self) -> None:
        """Hook for what a role builds on its engine."""

    def _score(
        self, groups: Sequence[list[Trajectory]], forward: Callable[[nn.Module, TrajectoryBatch], torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        """This rank's share of the trajectories, scored without gradients."""
        rows = sorted((t for group in groups for t in group), key=lambda t: t.id)
        share = split_among_ranks([len(t.token_ids) for t in rows], self._engine.world_size)[self._engine.rank]
        mine = [rows[i] for i in share]
        batches = trajectory_batches(mine or rows[:1], self._config.micro_batch_tokens, self._engine.device)
        results = self._engine.forward_each(batches, forward)  # a rank without a row takes part all the same
        return response_scores(zip(batches, results, strict=True)) if mine else {}

    def _experience(
        self, request: LearnRequest, groups: int, objects: Sequence[Any]
    ) -> tuple[ExperienceBatch, dict[str, float]]:
        trajectories = [t for group in objects[:groups] for t in group]
        step = ScoredStep.merge(trajectories, list(objects[groups:]), self._job.score_kinds)
        mask_truncated = self._job.rollout.truncated == "mask"
        batch = build_experience(
            step,
            self._job.algorithm,
            request.kl_coefficient,
            corrected=self._job.corrects_importance,
            mask_truncated=mask_truncated,
        )
        return batch, rollout_metrics(step, batch)

    def _update(self, request: LearnRequest, batch: ExperienceBatch, objective: Objective) -> dict[str, float]:
        """All epochs and minibatches of a step; metrics are means over its optimizer steps."""
        algorithm = self._job.algorithm
        totals: dict[str, float] = {}
        updates, bad = 0, list[str]()
        for epoch in range(algorithm.epochs):
            seed = f"{self._job.seed}-{request.step}-{epoch}"
            for rows in shuffled_minibatches(len(batch), algorithm.minibatches, seed):
                metrics = self._one_update(batch, rows, objective)
                if updates == 0 and "policy/ratio_abs_deviation" in metrics:
                    totals["policy/first_ratio_abs_deviation"] = metrics["policy/ratio_abs_deviation"]
                    totals["policy/first_clip_fraction"] = metrics["policy/clip_fraction"]
                updates += 1
                if metrics[f"{self._metric_prefix}/skipped_updates"]:
                    bad += [batch.trajectory_ids[row] for row in rows]
                for name, value in metrics.items():
                    totals[name] = totals.get(name, 0.0) + value
        if bad:
            self._set_aside(request, batch, bad)
        return {name: v if name.endswith(WHOLE) else v / updates for name, v in totals.items()}

    def _skip(self, request: LearnRequest, batch: ExperienceBatch) -> dict[str, float] | None:
        """Scores that are not finite: the step is not applied. None where all are."""
        bad = batch.not_finite()
        if not bad:
            return None
        self._set_aside(request, batch, bad)
        return {f"{self._metric_prefix}/skipped_updates": 1.0}

    def _set_aside(self, request: LearnRequest, batch: ExperienceBatch, ids: Sequence[str]) -> None:
        """Keep the batch of a step that was not applied, for inspection."""
        self._bad_ids = tuple(dict.fromkeys(ids))
        if self._rank == 0:
            from rayrlhf.engines.set_aside import write_batch

            write_batch(as_path(self._set_aside_to), request.step + 1, self._metric_prefix, batch, self._bad_ids)

    def bad_trajectories(self) -> tuple[str, ...]:
        """Ids of the last step that was not applied."""
        return self._bad_ids

    def _one_update(self, batch: ExperienceBatch, rows: list[int], objective: Objective) -> dict[str, float]:
        denominators = Denominators.of(batch.response_mask[rows])
        share = split_among_ranks([int(batch.lengths[i]) for i in rows], self._engine.world_size)[self._engine.rank]
        mine = [rows[i] for i in share]
        groups = micro_batches([int(batch.lengths[i]) for i in mine], self._config.micro_batch_tokens)
        parts = [batch.rows([mine[i] for i in group]).to(self._engine.device) for group in groups]
        parts = parts or [batch.rows(rows[:1]).masked().to(self._engine.device)]
        metrics = self._engine.accumulate(parts, lambda module, part: objective(module, part, denominators))
        metrics |= self._before_step()
        return metrics | {f"{self._metric_prefix}/{k}": v for k, v in self._engine.step().items()}

    def _before_step(self) -> dict[str, float]:
        """Hook for gradients that come from elsewhere (PPO-ptx)."""
        return {}

    _metric_prefix = "training"
    _idle_steps = 0
    """First steps of the run in which this role does not learn."""
