"""Token losses of the policy and the critic, before aggregation. All [B, T], no reduction, no side effects."""

from __future__ import annotations

import torch

from rayrlhf.algorithms.kl import LOG_RATIO_BOUND


def log_ratio(logprobs: torch.Tensor, old_logprobs: torch.Tensor) -> torch.Tensor:
    """log(pi / pi_old), clamped so that its exponential is finite."""
    return (logprobs - old_logprobs).clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND)


def clipped_policy_loss(
    logprobs: torch.Tensor,
    old_logprobs: torch.Tensor,
    advantages: torch.Tensor,
    clip: tuple[float, float] = (0.2, 0.2),
    dual_clip: float | None = None,
) -> torch.Tensor:
    """PPO's surrogate max(-A r, -A clip(r, 1 - low, 1 + high)) (arXiv 1707.06347, eq. 7), to be minimised.

    `dual_clip` c > 1 bounds it by -c A where A < 0 (arXiv 1912.09729, eq. 5).
    """
    ratio = log_ratio(logprobs, old_logprobs).exp()
    low, high = clip
    losses = torch.maximum(-advantages * ratio, -advantages * ratio.clamp(1 - low, 1 + high))
    if dual_clip is not None:
        losses = torch.where(advantages < 0, torch.minimum(losses, -dual_clip * advantages), losses)
    return losses


def clip_fraction_indicator(
    logprobs: torch.Tensor, old_logprobs: torch.Tensor, advantages: torch.Tensor, clip: tuple[float, float]
) -> torch.Tensor:
    """1 where the clipped branch is the larger loss (no gradient there); its masked mean is the clip fraction."""
    ratio = log_ratio(logprobs, old_logprobs).exp()
    clipped = ratio.clamp(1 - clip[0], 1 + clip[1])
    return (-advantages * clipped > -advantages * ratio).float()


def clipped_value_loss(
    values: torch.Tensor, old_values: torch.Tensor, returns: torch.Tensor, clip: float
) -> torch.Tensor:
    """0.5 max((V - R)^2, (clip(V, V_old ± clip) - R)^2), the value loss of the PPO reference implementation."""
    clipped = old_values + (values - old_values).clamp(-clip, clip)
    return 0.5 * torch.maximum((values - returns) ** 2, (clipped - returns) ** 2)


def truncated_importance_weights(
    policy_logprobs: torch.Tensor, behaviour_logprobs: torch.Tensor, mask: torch.Tensor, cap: float
) -> torch.Tensor:
    """Token-TIS: min(pi_old / mu, cap), detached, 0 at masked positions. Corrects the sampler's other arithmetic."""
    ratio = log_ratio(policy_logprobs.float(), behaviour_logprobs.float()).exp().detach()
    return torch.where(mask > 0, ratio.clamp(max=cap), 0.0)


def explained_variance(values: torch.Tensor, returns: torch.Tensor, mask: torch.Tensor) -> float:
    """1 - Var(R - V) / Var(R) over valid positions; 0 when the returns do not vary."""
    valid = mask > 0
    target, error = returns[valid].double(), (returns - values)[valid].double()
    if target.numel() < 2 or float(target.var()) == 0.0:
        return 0.0
    return float(1 - error.var() / target.var())
