"""Sums and means over the positions that count. A mask is 1 on generated tokens and 0 elsewhere, [B, T].

Losses are sums divided by a *global* denominator (all micro-batches and ranks of one optimizer step), so that how
a batch is split changes nothing. `Denominators` is that global count; `aggregate` uses it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

Aggregation = Literal[
    "token_mean",
    "sequence_mean_token_sum",
    "sequence_mean_token_mean",
    "sequence_mean_token_sum_norm",
    "sequence_sum_norm",
]


def masked_mean(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean over the positions where `mask` is 1; 0 where there are none. Masked values may be anything, even NaN."""
    return torch.where(mask > 0, values, 0.0).sum() / mask.sum().clamp(min=1)


def whiten(values: torch.Tensor, mask: torch.Tensor, *, unbiased: bool = True, epsilon: float = 1e-8) -> torch.Tensor:
    """Zero mean and unit variance over the valid positions [B, T]; masked positions become 0.

    `unbiased` divides by N - 1 (TRL, verl), else by N (LMHP). With one valid position the variance is 0.
    """
    count = mask.sum()
    centred = torch.where(mask > 0, values - masked_mean(values, mask), 0.0)
    variance = (centred**2).sum() / (count - 1 if unbiased else count).clamp(min=1)
    return centred * torch.rsqrt(variance + epsilon)


@dataclass(frozen=True, slots=True)
class Denominators:
    """What a loss is divided by: counts over the whole optimizer step, all micro-batches and ranks."""

    tokens: float
    sequences: float
    """Sequences with at least one valid token; fully masked ones leave sequence means."""

    @classmethod
    def of(cls, mask: torch.Tensor) -> Denominators:
        """Count the mask [B, T] of a whole optimizer step."""
        return cls(tokens=float(mask.sum()), sequences=float((mask.sum(-1) > 0).sum()))


def aggregate(
    losses: torch.Tensor,
    mask: torch.Tensor,
    how: Aggregation,
    denominators: Denominators,
    max_length: int | None = None,
) -> torch.Tensor:
    """Token losses [B, T] of a micro-batch to its share of the step's scalar loss; shares add up.

    token_mean: sum / tokens. sequence_mean_token_sum: sum / sequences. sequence_mean_token_mean: mean of each
    sequence / sequences (GRPO). sequence_mean_token_sum_norm: sum / `max_length` (verl's, scales with the batch).
    sequence_sum_norm: sum / (all rows * `max_length`) (Dr. GRPO; here `denominators.sequences` counts all rows).
    """
    losses = torch.where(mask > 0, losses, 0.0)
    match how:
        case "token_mean":
            return losses.sum() / max(denominators.tokens, 1.0)
        case "sequence_mean_token_sum":
            return losses.sum() / max(denominators.sequences, 1.0)
        case "sequence_mean_token_mean":
            lengths = mask.sum(-1).clamp(min=1)
            return (losses.sum(-1) / lengths).sum() / max(denominators.sequences, 1.0)
        case "sequence_mean_token_sum_norm" | "sequence_sum_norm":
            if max_length is None:
                raise ValueError(f"{how} needs max_length")
            rows = max(denominators.sequences, 1.0) if how == "sequence_sum_norm" else 1.0
            return losses.sum() / (max_length * rows)
