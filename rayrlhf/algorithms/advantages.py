"""How much better a token was than expected: GAE for PPO, the group's mean for GRPO.

All tensors are [B, T] with a mask; a masked token passes the recursion through unchanged, so time advances on
generated tokens only. Results are 0 at masked positions.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch


def token_rewards(
    scores: torch.Tensor,
    policy_logprobs: torch.Tensor,
    reference_logprobs: torch.Tensor,
    mask: torch.Tensor,
    kl_coefficient: float,
    clip: tuple[float, float] | None = None,
) -> torch.Tensor:
    """PPO's reward r_t = -beta * (log pi - log ref) + score at the last valid token (InstructGPT, section 3.5).

    `scores` is [B]; `clip` bounds the score, not the KL. Rows without a valid token stay 0.
    """
    rewards = torch.where(mask > 0, -kl_coefficient * (policy_logprobs - reference_logprobs), 0.0).detach()
    if clip is not None:
        scores = scores.clamp(*clip)
    positions = torch.arange(mask.shape[-1], device=mask.device)
    last = (mask * (positions + 1)).argmax(-1)
    has_tokens = mask.sum(-1) > 0
    rewards[torch.arange(len(rewards), device=mask.device), last] += torch.where(has_tokens, scores, 0.0)
    return rewards


def gae(
    rewards: torch.Tensor, values: torch.Tensor, mask: torch.Tensor, gamma: float, gae_lambda: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Generalised advantage estimation (arXiv 1506.02438, eq. 16): advantages and returns = advantages + values.

    delta_t = r_t + gamma * V_next - V_t and A_t = delta_t + gamma * lambda * A_next, where "next" is the next
    *valid* token and both are 0 after the last one.
    """
    advantages = torch.zeros_like(rewards)
    next_value = torch.zeros_like(rewards[:, 0])
    next_advantage = torch.zeros_like(next_value)
    for t in reversed(range(rewards.shape[1])):
        valid = mask[:, t] > 0
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        advantage = delta + gamma * gae_lambda * next_advantage
        advantages[:, t] = torch.where(valid, advantage, 0.0)
        next_value = torch.where(valid, values[:, t], next_value)
        next_advantage = torch.where(valid, advantage, next_advantage)
    returns = torch.where(mask > 0, advantages + values, 0.0)
    return advantages, returns


def group_advantages(
    scores: torch.Tensor, groups: Sequence[str], *, normalise_std: bool = True, epsilon: float = 1e-6
) -> torch.Tensor:
    """GRPO's (r - mean) / (std + epsilon) within each group of answers (arXiv 2402.03300, section 4.1.2); [B].

    The standard deviation has ddof 1. Groups are found by id, so their sizes may differ. A NaN score is left out of
    its group's statistics and gets 0; so does a group of one, and a group without variance gets exactly 0.
    """
    advantages = torch.zeros_like(scores)
    rows_by_group: dict[str, list[int]] = {}
    for row, group in enumerate(groups):
        if not torch.isnan(scores[row]):
            rows_by_group.setdefault(group, []).append(row)
    for rows in rows_by_group.values():
        members = scores[rows]
        if len(rows) < 2 or bool((members == members[0]).all()):
            continue
        centred = members - members.mean()
        advantages[rows] = centred / (members.std(unbiased=True) + epsilon) if normalise_std else centred
    return advantages
