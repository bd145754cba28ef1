"""The baseline that a reward model has to beat: a Bradley-Terry model of which tokens an answer has, and nothing else.

score(answer) = sum of w[token] over its distinct tokens, with w fitted to the pairs' losses under an L2 penalty (the
posterior mode of logistic regression). On Anthropic's harmless comparisons it already orders 61.5 % as people did.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from rayrlhf.algorithms.preferences import bradley_terry_losses

MOST_PAIRS = 20_000


class BagOfWords:
    """Weights of tokens, by token id."""

    def __init__(self, weights: torch.Tensor) -> None:
        self._weights = weights

    @classmethod
    def fit(
        cls, pairs: Sequence[tuple[Sequence[int], Sequence[int]]], penalty: float = 10.0, steps: int = 100
    ) -> BagOfWords:
        """From (chosen, rejected) answers as token ids; the first `MOST_PAIRS` pairs are enough for a baseline."""
        pairs = pairs[:MOST_PAIRS]
        size = 1 + max((token for pair in pairs for answer in pair for token in answer), default=0)
        weights = torch.zeros(size, requires_grad=True)
        rows, tokens, signs = _differences(pairs)
        optimizer = torch.optim.LBFGS([weights], max_iter=steps, line_search_fn="strong_wolfe")

        def loss() -> torch.Tensor:
            optimizer.zero_grad()
            margins = torch.zeros(len(pairs)).index_add(0, rows, weights[tokens] * signs)
            total = bradley_terry_losses(margins, torch.zeros_like(margins)).sum() + penalty / 2 * (weights**2).sum()
            total.backward()
            return total

        optimizer.step(loss)
        return cls(weights.detach())

    def score(self, answer: Sequence[int]) -> float:
        """Higher is better; tokens that were never seen count nothing."""
        known = [token for token in set(answer) if token < len(self._weights)]
        return float(self._weights[known].sum())


def _differences(
    pairs: Sequence[tuple[Sequence[int], Sequence[int]]],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Entries (pair, token, ±1) of the matrix of tokens that only one of the two answers has."""
    entries: list[tuple[int, int, float]] = []
    for row, (chosen, rejected) in enumerate(pairs):
        entries += [(row, token, 1.0) for token in set(chosen) - set(rejected)]
        entries += [(row, token, -1.0) for token in set(rejected) - set(chosen)]
    rows, tokens, signs = zip(*entries, strict=True) if entries else ((), (), ())
    return torch.tensor(rows, dtype=torch.long), torch.tensor(tokens, dtype=torch.long), torch.tensor(signs)
