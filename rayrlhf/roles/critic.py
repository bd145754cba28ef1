"""The critic rank: a Ray actor around the critic's `TrainingEngine`."""

from __future__ import annotations

from typing import Any

import ray
import torch
from torch import nn

from rayrlhf.algorithms.losses import explained_variance
from rayrlhf.algorithms.masked import Denominators
from rayrlhf.algorithms.objectives import LossTerms, value_objective
from rayrlhf.config.jobs import RLJob
from rayrlhf.config.sections import PPOConfig
from rayrlhf.engines.scoring import TrajectoryBatch
from rayrlhf.role_types import LearnRequest
from rayrlhf.roles.training import TrainingRole
from rayrlhf.types import ExperienceBatch, TokenScores, Trajectory


class CriticRole(TrainingRole):
    """See `CriticWorker`."""

    _metric_prefix = "critic"

    def __init__(self, job: RLJob, set_aside_to: str, rank: int) -> None:
        super().__init__(job, job.critic, set_aside_to, rank)

    def _load(self) -> nn.Module:
        """The reward model with its head, or the policy with a zero head (LMHP)."""
        from rayrlhf.engines.models import load_scalar

        path = self._job.critic.model or self._job.reward.model
        if path is not None:
            return load_scalar(self._job.model, path, head="required")
        return load_scalar(self._job.model, self._job.model.path, head="zero")

    @ray.method(num_returns=2)
    def values(self, *groups: list[Trajectory]) -> tuple[int, TokenScores]:
        """This rank's share of V before each response token."""
        from rayrlhf.engines.models import values_before_tokens

        def forward(module: nn.Module, batch: TrajectoryBatch) -> torch.Tensor:
            return values_before_tokens(module(batch.input_ids), batch.mask)

        scores = self._score(groups, forward)
        return len(scores), TokenScores("value", scores)

    def learn(self, request: LearnRequest, groups: int, *objects: Any) -> dict[str, float]:
        """Update the critic."""
        from rayrlhf.engines.models import values_before_tokens

        algorithm = self._job.algorithm
        assert isinstance(algorithm, PPOConfig)
        batch, _ = self._experience(request, groups, objects)
        if (skipped := self._skip(request, batch)) is not None:
            return skipped

        def objective(module: nn.Module, part: ExperienceBatch, denominators: Denominators) -> LossTerms:
            values = values_before_tokens(module(part.input_ids), part.response_mask)
            return value_objective(values, part, algorithm, denominators)

        explained = explained_variance(batch.values, batch.returns, batch.response_mask)
        return {"critic/explained_variance": explained, **self._update(request, batch, objective)}
