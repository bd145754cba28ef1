"""What a reward sees and answers; the contract for functions given as `reward.function`.

    def reward(request: RewardRequest) -> float | Mapping[str, float]

A mapping is the components; their sum is the reward.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from rayrlhf.types import FinishReason, Message, Reward


@dataclass(frozen=True, slots=True)
class RewardRequest:
    """One answer to judge, as text."""

    messages: tuple[Message, ...]
    response: str
    finish_reason: FinishReason
    answer: str | None
    metadata: Mapping[str, Any]


class RewardSource(Protocol):
    """A reward model or a reward function."""

    last_failure: str
    """Why the last request that failed did so; empty while none has."""

    def score(self, requests: list[RewardRequest]) -> list[Reward]:
        """One reward a request, in order; failures have a status, never a silent 0."""
        ...

    def close(self) -> None:
        """End what the source has started."""
        ...
