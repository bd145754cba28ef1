"""The losses of one micro-batch: what the policy, the critic and the supervised stages minimise.

Each takes the model's outputs for a micro-batch and its tensors, and gives `LossTerms`: the micro-batch's *share* of
the step's loss (shares add up over micro-batches and ranks) and metric sums to be added the same way.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from rayrlhf.algorithms.kl import kl_estimate
from rayrlhf.algorithms.losses import clip_fraction_indicator, clipped_policy_loss, clipped_value_loss, log_ratio
from rayrlhf.algorithms.masked import Denominators, aggregate
from rayrlhf.config.sections import AlgorithmConfig, GRPOConfig, PPOConfig
from rayrlhf.types import ExperienceBatch


@dataclass(frozen=True, slots=True)
class LossTerms:
    """A micro-batch's share of the loss (a scalar with a graph) and of each metric (numbers that add up)."""

    loss: torch.Tensor
    metrics: dict[str, float] = field(default_factory=dict)


def policy_objective(
    logprobs: torch.Tensor,
    entropy: torch.Tensor,
    batch: ExperienceBatch,
    algorithm: AlgorithmConfig,
    denominators: Denominators,
) -> LossTerms:
    """PPO's or GRPO's loss from the policy's log-probabilities and entropy, both [B, T] on token positions."""
    mask, old, advantages = batch.response_mask, batch.policy_logprobs, batch.advantages
    clip = (algorithm.clip_low, algorithm.clip_high)
    losses = clipped_policy_loss(logprobs, old, advantages, clip, algorithm.dual_clip) * batch.importance_weights
    if isinstance(algorithm, GRPOConfig) and algorithm.kl_coefficient > 0:
        losses = losses + algorithm.kl_coefficient * kl_estimate(logprobs, batch.reference_logprobs, "k3")
    if algorithm.entropy_coefficient > 0:
        losses = losses - algorithm.entropy_coefficient * entropy
    loss = aggregate(losses, mask, algorithm.aggregation, denominators)
    with torch.no_grad():
        ratio = log_ratio(logprobs, old).exp()
        tokens = max(denominators.tokens, 1.0)
        valid = mask > 0

        def share(values: torch.Tensor) -> float:
            return float(torch.where(valid, values, 0.0).sum()) / tokens

        metrics = {
            "policy/loss": float(loss),
            "policy/entropy_nats": share(entropy),
            "policy/clip_fraction": share(clip_fraction_indicator(logprobs, old, advantages, clip)),
            "policy/approx_kl_nats": share(kl_estimate(logprobs, old, "k2")),
            "policy/ratio_mean": share(ratio),
            "policy/ratio_abs_deviation": share((ratio - 1).abs()),
        }
    return LossTerms(loss, metrics)


def value_objective(
    values: torch.Tensor, batch: ExperienceBatch, algorithm: PPOConfig, denominators: Denominators
) -> LossTerms:
    """The critic's clipped loss from its values [B, T], the token mean times `value_coefficient`."""
    losses = clipped_value_loss(values, batch.values, batch.returns, algorithm.value_clip)
    loss = algorithm.value_coefficient * aggregate(losses, batch.response_mask, "token_mean", denominators)
    return LossTerms(loss, {"critic/loss": float(loss.detach())})


def cross_entropy_objective(
    logprobs: torch.Tensor, mask: torch.Tensor, tokens: float, coefficient: float = 1.0, name: str = "sft/loss_nats"
) -> LossTerms:
    """Negative log-likelihood of the masked tokens over the step's `tokens`: SFT, and PPO-ptx with its coefficient."""
    nll = torch.where(mask > 0, -logprobs, 0.0).sum() / max(tokens, 1.0)
    return LossTerms(coefficient * nll, {name: float(nll.detach())})
