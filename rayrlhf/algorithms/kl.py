"""Estimators of KL(policy || reference) from sampled tokens, and the controller of its coefficient.

With d = log pi - log ref on tokens drawn from pi (Schulman, "Approximating KL Divergence"): k1 = d,
k2 = d^2 / 2, k3 = exp(-d) - 1 + d. k1 and k3 have the right value; as a *loss* only k2 has the right gradient.
KL enters in one place: PPO puts k1 into the reward, GRPO adds k3 to the loss. Never both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

LOG_RATIO_BOUND = 20.0
"""Log-ratios are clamped to ± this before they are exponentiated."""

KLEstimator = Literal["k1", "k2", "k3"]


def kl_estimate(logprobs: torch.Tensor, reference_logprobs: torch.Tensor, estimator: KLEstimator) -> torch.Tensor:
    """Per-token estimate in nats; the shape of the inputs. Gradients flow through `logprobs`."""
    difference = (logprobs - reference_logprobs).clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND)
    match estimator:
        case "k1":
            return difference
        case "k2":
            return difference**2 / 2
        case "k3":
            return torch.exp(-difference) - 1 + difference


@dataclass(frozen=True, slots=True)
class AdaptiveKL:
    """Proportional controller of LMHP (arXiv 1909.08593, section 2.2)."""

    target_nats: float
    horizon_episodes: int

    def update(self, coefficient: float, kl_nats: float, episodes: int) -> float:
        """The next coefficient after a step of `episodes` whose mean summed k1 was `kl_nats` a sequence."""
        error = min(max(kl_nats / self.target_nats - 1, -0.2), 0.2)
        return coefficient * (1 + error * episodes / self.horizon_episodes)
