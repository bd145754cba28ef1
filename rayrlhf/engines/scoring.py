"""Trajectories as micro-batches, and per-token results back to trajectories: what every scoring pass shares."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from rayrlhf.algorithms.experience import pad_trajectories
from rayrlhf.data.batching import micro_batches
from rayrlhf.types import Trajectory


@dataclass(frozen=True, slots=True)
class TrajectoryBatch:
    """Right-padded ids [B, T] and the response mask [B, T] of some trajectories."""

    trajectories: tuple[Trajectory, ...]
    input_ids: torch.Tensor
    mask: torch.Tensor


def trajectory_batches(
    trajectories: Sequence[Trajectory], micro_batch_tokens: int, device: torch.device
) -> list[TrajectoryBatch]:
    """Micro-batches of like length."""
    groups = micro_batches([len(t.token_ids) for t in trajectories], micro_batch_tokens)
    batches = []
    for group in groups:
        rows = tuple(trajectories[i] for i in group)
        input_ids, _, mask = pad_trajectories(rows)
        batches.append(TrajectoryBatch(rows, input_ids.to(device), mask.to(device)))
    return batches


def response_scores(scored: Iterable[tuple[TrajectoryBatch, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """By trajectory id, the entries of [B, T] results that belong to response tokens; on the CPU."""
    by_id: dict[str, torch.Tensor] = {}
    for batch, result in scored:
        for row, trajectory in enumerate(batch.trajectories):
            start = len(trajectory.prompt.token_ids)
            by_id[trajectory.id] = result[row, start : len(trajectory.token_ids)].cpu().clone()
    return by_id
