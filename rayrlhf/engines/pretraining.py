"""Rows of plain text as micro-batches, for PPO-ptx."""

from __future__ import annotations

import random

import torch

from rayrlhf.data.batching import micro_batches, split_among_ranks
from rayrlhf.engines.training import TrainingEngine


def pretraining_batches(
    rows: list[tuple[int, ...]], count: int, seed: str, micro_batch_tokens: int, engine: TrainingEngine
) -> tuple[list[tuple[torch.Tensor, torch.Tensor]], float]:
    """This rank's (ids [B, T], mask [B, T]) of `count` drawn rows, and the predicted tokens of all ranks.

    The mask is 0 on each row's first token, which nothing predicts, and on padding.
    """
    drawn = random.Random(seed).choices(rows, k=max(count, engine.world_size))
    tokens = float(sum(len(row) - 1 for row in drawn))
    mine = [drawn[i] for i in split_among_ranks([len(row) for row in drawn], engine.world_size)[engine.rank]]
    batches = []
    for group in micro_batches([len(row) for row in mine], micro_batch_tokens):
        width = max(len(mine[i]) for i in group)
        ids = torch.zeros(len(group), width, dtype=torch.long)
        mask = torch.zeros(len(group), width)
        for r, i in enumerate(group):
            ids[r, : len(mine[i])] = torch.tensor(mine[i])
            mask[r, 1 : len(mine[i])] = 1.0
        batches.append((ids.to(engine.device), mask.to(engine.device)))
    return batches, tokens
