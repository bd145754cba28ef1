"""From scored trajectories to the batch a loss reads. Deterministic: rows are in the order of their ids.

    trajectories, Rewards, TokenScores ──▶ masks, token rewards, advantages, returns ──▶ ExperienceBatch

Every learner and critic rank builds the same whole batch (token ids and scores are small beside activations), so
whitening and group statistics need no communication and do not depend on the number of ranks.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch

from rayrlhf.algorithms.advantages import gae, group_advantages, token_rewards
from rayrlhf.algorithms.losses import truncated_importance_weights
from rayrlhf.algorithms.masked import masked_mean, whiten
from rayrlhf.config.sections import AlgorithmConfig, PPOConfig
from rayrlhf.types import ExperienceBatch, Rewards, TokenScores, Trajectory


@dataclass(frozen=True, slots=True)
class ScoredStep:
    """All that a step's roles found out about its trajectories; complete, in the order of the ids."""

    trajectories: tuple[Trajectory, ...]
    rewards: Rewards
    policy: TokenScores
    reference: TokenScores | None
    values: TokenScores | None

    @classmethod
    def merge(
        cls, trajectories: Sequence[Trajectory], parts: Sequence[Rewards | TokenScores], kinds: Collection[str]
    ) -> ScoredStep:
        """Put the workers' parts together and check that every trajectory has a reward and scores of all `kinds`."""
        ordered = tuple(sorted(trajectories, key=lambda trajectory: trajectory.id))
        rewards = {id_: r for part in parts if isinstance(part, Rewards) for id_, r in part.by_id.items()}
        tokens: dict[str, dict[str, torch.Tensor]] = {}
        for part in parts:
            if isinstance(part, TokenScores):
                tokens.setdefault(part.kind, {}).update(part.by_id)
        found: dict[str, Mapping[str, object]] = {kind: tokens.get(kind, {}) for kind in sorted({*kinds, *tokens})} | {
            "reward": rewards
        }
        for kind, by_id in found.items():
            missing = [t.id for t in ordered if t.id not in by_id]
            if missing:
                raise ValueError(f"{len(missing)} trajectories have no {kind} score, the first is {missing[0]}")
        return cls(
            trajectories=ordered,
            rewards=Rewards(rewards),
            policy=TokenScores("policy", tokens["policy"]),
            reference=TokenScores("reference", tokens["reference"]) if "reference" in tokens else None,
            values=TokenScores("value", tokens["value"]) if "value" in tokens else None,
        )


def build_experience(
    step: ScoredStep,
    algorithm: AlgorithmConfig,
    kl_coefficient: float,
    *,
    corrected: bool = False,
    mask_truncated: bool = False,
) -> ExperienceBatch:
    """Advantages and returns of a step, with importance weights where `corrected`.

    `mask_truncated` leaves answers cut at max_tokens out of the loss.

    A trajectory whose reward failed has an all-zero mask: it counts in no mean and gets no gradient.
    """
    rows = step.trajectories
    input_ids, lengths, mask = pad_trajectories(rows)
    scores = torch.tensor([_score(step.rewards, row) for row in rows], dtype=torch.float32)
    usable = ~torch.isnan(scores)
    if mask_truncated:
        usable &= torch.tensor([row.completion.finish_reason == "stop" for row in rows])
    behaviour = _align({r.id: torch.tensor(r.completion.behaviour_logprobs) for r in rows}, rows, mask)
    policy = _align(step.policy.by_id, rows, mask)
    reference = _align(step.reference.by_id, rows, mask) if step.reference else policy
    values = _align(step.values.by_id, rows, mask) if step.values else torch.zeros_like(policy)
    mask = mask * usable.unsqueeze(-1)
    if isinstance(algorithm, PPOConfig):
        penalised = token_rewards(scores.nan_to_num(), policy, reference, mask, kl_coefficient, algorithm.reward_bounds)
        advantages, returns = gae(penalised, values, mask, algorithm.gamma, algorithm.gae_lambda)
        advantages = whiten(advantages, mask) if algorithm.whiten_advantages else advantages
    else:
        groups = [row.group_id for row in rows]
        of_rows = group_advantages(scores, groups, normalise_std=algorithm.normalise_std, epsilon=algorithm.epsilon)
        advantages, returns = of_rows.unsqueeze(-1) * mask, torch.zeros_like(mask)
    weights = mask.clone()
    if corrected:
        weights = truncated_importance_weights(policy, behaviour, mask, algorithm.importance_cap)
    return ExperienceBatch(
        trajectory_ids=tuple(row.id for row in rows),
        input_ids=input_ids,
        lengths=lengths,
        response_mask=mask,
        policy_logprobs=policy * mask,
        behaviour_logprobs=behaviour * mask,
        reference_logprobs=reference * mask,
        values=values * mask,
        advantages=advantages,
        returns=returns,
        importance_weights=weights,
    )


def pad_trajectories(rows: Sequence[Trajectory]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Right-padded ids [B, T], lengths [B] and the response mask [B, T], from lengths alone."""
    lengths = torch.tensor([len(row.token_ids) for row in rows])
    input_ids = torch.zeros(len(rows), int(lengths.max()), dtype=torch.long)
    mask = torch.zeros(input_ids.shape, dtype=torch.float32)
    for i, row in enumerate(rows):
        input_ids[i, : lengths[i]] = torch.tensor(row.token_ids)
        mask[i, len(row.prompt.token_ids) : lengths[i]] = 1.0
    return input_ids, lengths, mask


def _align(by_id: Mapping[str, torch.Tensor], rows: Sequence[Trajectory], mask: torch.Tensor) -> torch.Tensor:
    aligned = torch.zeros_like(mask)
    for i, row in enumerate(rows):
        start = len(row.prompt.token_ids)
        scores = by_id[row.id]
        if len(scores) != len(row.completion.token_ids):
            raise ValueError(f"{row.id}: {len(scores)} scores for {len(row.completion.token_ids)} tokens")
        aligned[i, start : start + len(scores)] = scores.float()
    return aligned


def _score(rewards: Rewards, row: Trajectory) -> float:
    value = rewards.by_id[row.id].value
    return float("nan") if value is None else value


def rollout_metrics(step: ScoredStep, batch: ExperienceBatch) -> dict[str, float]:
    """What is known before the update: rewards, lengths, KL to the reference, and the sampler's drift.

    What was not measured is not there: no KL without a reference, no mean reward when all failed.
    """
    mask = batch.response_mask
    scored = [r.value for r in step.rewards.by_id.values() if r.value is not None]
    drift = (batch.policy_logprobs - batch.behaviour_logprobs)[mask > 0]
    ratio = drift.exp()
    weights = batch.importance_weights[mask > 0]
    count = max(len(step.trajectories), 1)
    metrics = {
        "reward/failed_share": 1 - len(scored) / count,
        "rollout/response_tokens_mean": sum(len(t.completion.token_ids) for t in step.trajectories) / count,
        "rollout/truncated_share": sum(t.completion.finish_reason == "length" for t in step.trajectories) / count,
        "drift/abs_logprob_mean_nats": float(drift.abs().mean()) if drift.numel() else 0.0,
        "drift/abs_logprob_p95_nats": float(drift.abs().quantile(0.95)) if drift.numel() else 0.0,
        "drift/abs_logprob_max_nats": float(drift.abs().max()) if drift.numel() else 0.0,
        "drift/ratio_outside_share": float(((ratio < 0.9) | (ratio > 1.1)).float().mean()) if drift.numel() else 0.0,
        "drift/effective_sample_share": float(weights.sum() ** 2 / (len(weights) * (weights**2).sum()))
        if weights.numel()
        else 1.0,
    }
    if scored:
        rewards = torch.tensor(scored)
        metrics |= {"reward/mean": float(rewards.mean()), "reward/std": float(rewards.std(unbiased=False))}
    if step.reference is not None:
        kl_tokens = (batch.policy_logprobs - batch.reference_logprobs) * mask
        counted = max(int((mask.sum(-1) > 0).sum()), 1)
        metrics["kl/sequence_nats"] = float(kl_tokens.sum()) / counted
        metrics["kl/token_nats"] = float(masked_mean(kl_tokens, mask))
    return metrics
