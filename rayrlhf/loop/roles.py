"""The worker groups of a run, and how the training ones start: ranks meet, then load."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rayrlhf.role_types import (
    CriticWorker,
    LearnerWorker,
    ReferenceWorker,
    Rendezvous,
    RewardWorker,
    RolloutWorker,
    Trainer,
)
from rayrlhf.runtime.worker_group import Pending, WorkerGroup, gather


@dataclass(frozen=True, slots=True)
class Roles:
    """The worker groups of a run; an algorithm may do without a reference or a critic."""

    rollout: WorkerGroup[RolloutWorker]
    reward: WorkerGroup[RewardWorker]
    learner: WorkerGroup[LearnerWorker]
    reference: WorkerGroup[ReferenceWorker] | None
    critic: WorkerGroup[CriticWorker] | None

    @property
    def all(self) -> list[WorkerGroup[Any]]:
        """Every group there is."""
        return [g for g in (self.rollout, self.reward, self.learner, self.reference, self.critic) if g is not None]

    @property
    def training(self) -> list[WorkerGroup[Any]]:
        """The groups that hold state."""
        return [g for g in (self.learner, self.critic) if g is not None]

    def of(self, role: str) -> WorkerGroup[Any]:
        """The group of a role."""
        return next(group for group in self.all if group.role == role)

    def find(self, role: str) -> WorkerGroup[Any] | None:
        """The group of a role, if the algorithm has it."""
        return next((group for group in self.all if group.role == role), None)


def start_training(groups: Sequence[WorkerGroup[Any]], checkpoint: Path | None, timeout_s: float) -> None:
    """Let the ranks of each training group meet and load; all groups at the same time."""
    starting: list[Pending[Any]] = []
    for group in groups:
        ((address, port),) = gather([group.start_on(0, Trainer.address)], timeout_s, "start")
        folder = str(checkpoint / checkpoint_part(group.role)) if checkpoint else None
        starting += group.start(Trainer.start, Rendezvous(address, port, group.size, timeout_s), folder)
    gather(starting, timeout_s, "start")


def checkpoint_part(role: str) -> str:
    """The folder of a training role inside a checkpoint."""
    return {"learner": "policy", "critic": "critic"}[role]
