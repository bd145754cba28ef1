"""What many processes say of themselves, each its last word: one small named Ray actor, which anybody can ask.

It can be lost: those who are alive say it again.
"""

from __future__ import annotations

import time
from typing import Any

import ray

NAMESPACE = "rayrlhf"
FRESH_S = 60.0
"""Who has been silent for longer is gone."""


class Board:
    """Keeps the last word of each speaker."""

    def __init__(self) -> None:
        self._said: dict[str, tuple[float, Any]] = {}

    def say(self, speaker: str, word: Any) -> None:
        """Replace what this one said before."""
        self._said[speaker] = time.monotonic(), word

    def words(self) -> dict[str, Any]:
        """What those say who have spoken lately."""
        now = time.monotonic()
        self._said = {name: (at, word) for name, (at, word) in self._said.items() if now - at < FRESH_S}
        return {name: word for name, (_, word) in self._said.items()}


def open_board(name: str) -> Any:
    """The handle of a board, which is made on first use and outlives its maker."""
    actor: Any = ray.remote(Board)
    return actor.options(
        name=f"board:{name}", namespace=NAMESPACE, get_if_exists=True, lifetime="detached", num_cpus=0,
        max_restarts=-1,
    ).remote()  # fmt: skip


def read_board(name: str, timeout_s: float = 30.0) -> dict[str, Any]:
    """The last words on a board, by speaker."""
    return dict(ray.get(open_board(name).words.remote(), timeout=timeout_s))
