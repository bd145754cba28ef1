"""Log-probabilities and entropy of tokens from hidden states, a chunk of positions at a time.

The full [B, T, V] float32 logits of a batch are often larger than the model. Only the positions that count are
projected, and of those only `chunk` at once; where a gradient is wanted each chunk is recomputed in the backward
pass instead of kept.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.utils.checkpoint import checkpoint

CHUNK_POSITIONS = 1024


def logprobs_and_entropy(
    logits: torch.Tensor, targets: torch.Tensor, temperature: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """log softmax(logits / T) at `targets` and the entropy of that distribution, float32 nats, [N] from [N, V]."""
    scaled = logits.float() / temperature
    normaliser = scaled.logsumexp(-1)
    chosen = scaled.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    entropy = normaliser - (scaled.softmax(-1) * scaled).sum(-1)
    return chosen - normaliser, entropy


def chunked_logprobs(
    project: Callable[[torch.Tensor], torch.Tensor],
    hidden: torch.Tensor,
    targets: torch.Tensor,
    temperature: float = 1.0,
    chunk: int = CHUNK_POSITIONS,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same from hidden states [N, d], with `project` (d -> V) applied to at most `chunk` positions at once."""

    def one(part: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return logprobs_and_entropy(project(part), target, temperature)

    parts = []
    for part, target in zip(torch.split(hidden, chunk), torch.split(targets, chunk), strict=True):
        if torch.is_grad_enabled():
            parts.append(checkpoint(one, part, target, use_reentrant=False))
        else:
            parts.append(one(part, target))
    return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])
