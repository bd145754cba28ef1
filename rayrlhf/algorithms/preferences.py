"""Reward-model losses and metrics from human preferences. Scores are float32; `logsigmoid` never overflows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import logsigmoid

from rayrlhf.algorithms.proportions import wilson_interval as wilson_interval


def bradley_terry_losses(
    chosen: torch.Tensor, rejected: torch.Tensor, margin: torch.Tensor | float = 0.0
) -> torch.Tensor:
    """-log sigmoid(r_chosen - r_rejected - margin) of each pair, [P]."""
    return -logsigmoid(chosen - rejected - margin)


def ranking_loss(scores: torch.Tensor, pairs: Sequence[tuple[int, int]], centering: float = 0.0) -> torch.Tensor:
    """InstructGPT's loss of one prompt (arXiv 2203.02155, eq. 1): the mean over its kept (winner, loser) pairs.

    `scores` [K] has each response once. A batch is the mean of this over *prompts*, not over pooled pairs. `centering`
    adds its multiple of mean((r_w + r_l)^2). No pairs (all tied): 0, and the prompt is not counted.
    """
    if not pairs:
        return scores.sum() * 0.0
    winners, losers = (torch.tensor(column, device=scores.device) for column in zip(*pairs, strict=True))
    won, lost = scores[winners], scores[losers]
    return bradley_terry_losses(won, lost).mean() + centering * ((won + lost) ** 2).mean()


@dataclass(frozen=True, slots=True)
class PreferenceMetrics:
    """How well scores agree with people, over P pairs."""

    pairs: int
    accuracy: float
    """Share of pairs ordered as people did; a tie counts one half."""
    accuracy_low: float
    accuracy_high: float
    """Wilson 95 % interval of the accuracy."""
    nll: float
    brier: float
    calibration_error: float
    """Expected calibration error over ten bins of sigmoid(|margin|)."""
    mean_margin: float
    score_std: float
    longer_wins: float
    """Baseline: share of pairs in which the longer answer was chosen (a tie counts one half)."""
    accuracy_like_length: float
    """Accuracy on the half of the pairs whose lengths differ least."""

    @property
    def collapsed(self) -> bool:
        """High accuracy at the loss of a coin: the scores hardly differ, so the accuracy is an artefact."""
        return self.accuracy > 0.8 and abs(self.nll - 0.6931) < 0.005


def preference_metrics(
    chosen: torch.Tensor, rejected: torch.Tensor, chosen_lengths: torch.Tensor, rejected_lengths: torch.Tensor
) -> PreferenceMetrics:
    """All metrics of the pairs' scores and lengths (tokens), each [P]."""
    margin = (chosen - rejected).double()
    right = (margin > 0).double() + 0.5 * (margin == 0).double()
    probability = torch.sigmoid(margin)
    length_gap = (chosen_lengths - rejected_lengths).double()
    like = length_gap.abs() <= length_gap.abs().median()
    accuracy = float(right.mean())
    low, high = wilson_interval(float(right.sum()), len(right))
    scores = torch.cat([chosen, rejected]).double()
    return PreferenceMetrics(
        pairs=len(margin),
        accuracy=accuracy,
        accuracy_low=low,
        accuracy_high=high,
        nll=float(-logsigmoid(margin).mean()),
        brier=float(((1 - probability) ** 2).mean()),
        calibration_error=_calibration_error(margin, right),
        mean_margin=float(margin.mean()),
        score_std=float(scores.std(unbiased=False)),
        longer_wins=float(((length_gap > 0).double() + 0.5 * (length_gap == 0).double()).mean()),
        accuracy_like_length=float(right[like].mean()),
    )


def _calibration_error(margin: torch.Tensor, right: torch.Tensor, bins: int = 10) -> float:
    confidence = torch.sigmoid(margin.abs())
    bin_of = ((confidence - 0.5) * 2 * bins).long().clamp(0, bins - 1)
    error = 0.0
    for b in range(bins):
        inside = bin_of == b
        if inside.any():
            error += float(inside.double().mean() * (right[inside].mean() - confidence[inside].mean()).abs())
    return error
