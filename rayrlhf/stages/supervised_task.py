"""What a supervised stage learns, and in which order: the part that `sft.py` and `reward_model.py` fill in.

items ──▶ a seeded permutation an epoch ──▶ optimizer steps ──▶ each rank its share
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol, TypeVar

from torch import nn

from rayrlhf.algorithms.objectives import LossTerms
from rayrlhf.config.jobs import SupervisedJob
from rayrlhf.engines.training import TrainingEngine

I = TypeVar("I")  # noqa: E741 (an item: a demonstration or a ranking, tokenised)


class SupervisedTask(Protocol[I]):
    """What is learned. An item is what one row became; it is never split between micro-batches."""

    @property
    def items(self) -> Sequence[I]:
        """What is learned from."""
        ...

    @property
    def held_out(self) -> Sequence[I]:
        """What is only measured."""
        ...

    def load(self) -> nn.Module:
        """The module to train."""
        ...

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The parameters of what `load` gives."""
        ...

    def length(self, item: I) -> int:
        """Padded tokens that the item needs on its own."""
        ...

    def batches(self, items: Sequence[I], engine: TrainingEngine) -> list[Any]:
        """Micro-batches of the items, on the engine's device."""
        ...

    def objective(self, step_items: Sequence[I]) -> Callable[[nn.Module, Any], LossTerms]:
        """The loss, normalised by all items of an optimizer step."""
        ...

    def evaluate(self, engine: TrainingEngine) -> dict[str, float]:
        """Metrics of the held-out items; a collective."""
        ...

    def export(self, engine: TrainingEngine, folder: Path) -> None:
        """Write the model; a collective."""
        ...


MakeTask = Callable[[Any], SupervisedTask[Any]]


def count_steps(task: SupervisedTask[Any], job: SupervisedJob) -> int:
    """Optimizer steps of the stage."""
    return len(optimizer_steps(task.items, job))


def optimizer_steps(items: Sequence[I], job: SupervisedJob) -> list[list[I]]:
    """The items of every optimizer step: a seeded permutation an epoch.

    The last step of an epoch may be smaller, but not than the number of ranks: it is then part of the one before.
    """
    size, ranks = job.run.batch_rows, job.learner.ranks
    steps: list[list[I]] = []
    for epoch in range(job.run.epochs):
        order = list(range(len(items)))
        random.Random(f"epoch-{job.seed}-{epoch}").shuffle(order)
        starts = list(range(0, len(order), size))
        if len(starts) > 1 and len(order) - starts[-1] < ranks:
            starts.pop()
        steps += [[items[i] for i in order[a:b]] for a, b in pairwise([*starts, len(order)])]
    return steps


def rank_share(items: Sequence[I], engine: TrainingEngine) -> list[I]:
    """This rank's held-out items; all of them on every rank where there are too few to share."""
    return list(items[engine.rank :: engine.world_size] if len(items) >= engine.world_size else items)


def gather_objects(value: Any) -> list[Any]:
    """Every rank's value, on every rank."""
    import torch.distributed as dist

    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, value)
    return gathered
