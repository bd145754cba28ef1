"""The reference worker: a Ray actor around the frozen policy."""

from __future__ import annotations

import ray
import torch

from rayrlhf.config.jobs import RLJob
from rayrlhf.roles.base import Role
from rayrlhf.runtime.environment import thread_count
from rayrlhf.types import TokenScores, Trajectory


class ReferenceRole(Role):
    """See `ReferenceWorker`."""

    def __init__(self, job: RLJob, rank: int) -> None:
        super().__init__(thread_count(job.reference.threads, job.side_by_side))
        from rayrlhf.engines.models import load_policy

        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._module = load_policy(job.model, job.reference.model).to(self._device).eval()
        self._temperature = job.rollout.temperature
        self._micro_batch_tokens = job.reference.micro_batch_tokens

    @ray.method(num_returns=2)
    def logprobs(self, *groups: list[Trajectory]) -> tuple[int, TokenScores]:
        """log p of every response token under the reference."""
        from rayrlhf.engines.scoring import TrajectoryBatch, response_scores, trajectory_batches

        def forward(batch: TrajectoryBatch) -> torch.Tensor:
            return self._module(batch.input_ids, batch.mask, self._temperature)[0]

        rows = [t for group in groups for t in group]
        with torch.no_grad():
            batches = trajectory_batches(rows, self._micro_batch_tokens, self._device)
            scores = response_scores((b, forward(b)) for b in batches)
        return len(scores), TokenScores("reference", scores)
