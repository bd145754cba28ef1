"""What every replica has to say: which release it serves, and which one it would not take. One small named Ray actor.

Serve tells the world how many replicas run, and not what they run; this does. It can be lost: replicas say it again.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import ray

NAMESPACE = "rayrlhf"
FRESH_S = 60.0
"""Replicas speak with every health check (each 10 s); who has been silent for longer is gone."""


@dataclass(frozen=True, slots=True)
class ReplicaState:
    """One replica of a slot."""

    replica: str
    slot: str
    version: int
    refused: int | None = None
    """A release that was not taken, and why not."""
    reason: str = ""


class Board:
    """Keeps the last word of each replica."""

    def __init__(self) -> None:
        self._said: dict[str, tuple[float, ReplicaState]] = {}

    def say(self, state: ReplicaState) -> None:
        """Replace what this replica said before."""
        self._said[state.replica] = time.monotonic(), state

    def states(self) -> list[ReplicaState]:
        """What those say who have spoken lately."""
        now = time.monotonic()
        self._said = {name: (at, state) for name, (at, state) in self._said.items() if now - at < FRESH_S}
        return [state for _, state in self._said.values()]


def open_board(service: str) -> Any:
    """The handle of a service's board, which is made on first use and outlives its maker."""
    actor: Any = ray.remote(Board)
    return actor.options(
        name=f"board:{service}", namespace=NAMESPACE, get_if_exists=True, lifetime="detached", num_cpus=0,
        max_restarts=-1,
    ).remote()  # fmt: skip
