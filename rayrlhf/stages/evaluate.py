"""Which of two policies answers better, by a score, on prompts that neither has seen; with intervals."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from rayrlhf.algorithms.preferences import wilson_interval


@dataclass(frozen=True, slots=True)
class WinRate:
    """How often the candidate's answer scores above the baseline's to the same prompt; a tie is half a win."""

    prompts: int
    share: float
    low: float
    """Wilson 95 % interval."""
    high: float
    like_length_share: float
    """The same among the half of the pairs whose answers differ least in length (words)."""
    like_length_low: float
    like_length_high: float
    mean_gain: float
    """Mean difference of the scores, with a bootstrap 95 % interval over prompts."""
    mean_gain_low: float
    mean_gain_high: float


def win_rate(
    candidate: Sequence[float], baseline: Sequence[float], length_gaps: Sequence[int], seed: int = 0
) -> WinRate:
    """Compare paired scores; `length_gaps` are the answers' differences in words."""
    wins = [1.0 if c > b else 0.5 if c == b else 0.0 for c, b in zip(candidate, baseline, strict=True)]
    order = sorted(range(len(wins)), key=lambda i: (abs(length_gaps[i]), i))
    like = [wins[i] for i in order[: (len(order) + 1) // 2]]
    gains = [c - b for c, b in zip(candidate, baseline, strict=True)]
    gain_low, gain_high = bootstrap_interval(gains, seed)
    low, high = wilson_interval(sum(wins), len(wins))
    like_low, like_high = wilson_interval(sum(like), len(like))
    return WinRate(
        len(wins), sum(wins) / len(wins), low, high, sum(like) / len(like), like_low, like_high,
        sum(gains) / len(gains), gain_low, gain_high,
    )  # fmt: skip


def bootstrap_interval(values: Sequence[float], seed: int, resamples: int = 10_000) -> tuple[float, float]:
    """Percentile bootstrap 95 % interval of the mean."""
    draw = random.Random(f"bootstrap-{seed}")
    means = sorted(sum(draw.choices(values, k=len(values))) / len(values) for _ in range(resamples))
    return means[int(0.025 * resamples)], means[int(0.975 * resamples) - 1]
