"""The learner rank: a Ray actor around the policy's `TrainingEngine`, and the sending end of weight sync."""

from __future__ import annotations

from typing import Any

import ray
import torch
from torch import nn

from rayrlhf.algorithms.masked import Denominators
from rayrlhf.algorithms.objectives import LossTerms, cross_entropy_objective, policy_objective
from rayrlhf.config.jobs import RLJob
from rayrlhf.config.sections import PPOConfig
from rayrlhf.data.durable import as_path
from rayrlhf.data.journal import Journal
from rayrlhf.engines.scoring import TrajectoryBatch
from rayrlhf.role_types import LearnRequest, Sample, SentWeights, SyncAddress, SyncInfo
from rayrlhf.roles.training import TrainingRole
from rayrlhf.types import ExperienceBatch, Rewards, TokenScores, Trajectory


class LearnerRole(TrainingRole):
    """See `LearnerWorker`."""

    _metric_prefix = "policy"

    def __init__(self, job: RLJob, journal: str, set_aside_to: str, rank: int) -> None:
        super().__init__(job, job.learner, set_aside_to, rank)
        self._idle_steps = job.algorithm.critic_warmup_steps if isinstance(job.algorithm, PPOConfig) else 0
        self._journal = Journal(as_path(journal))

    def _load(self) -> nn.Module:
        from rayrlhf.engines.models import load_policy

        return load_policy(self._job.model)

    def _started(self) -> None:
        from rayrlhf.engines.models import load_tokenizer
        from rayrlhf.engines.weight_source import WeightSource
        from rayrlhf.weight_sync.sender import WeightSender

        self._tokenizer = load_tokenizer(self._job.model.path)
        self._source = WeightSource(self._engine.module.model)
        self._bucket_bytes = self._job.weight_sync.bucket_mib << 20
        self._sender = WeightSender(self._source, self._bucket_bytes, self._engine.device)
        self._pretraining = self._load_pretraining()

    @ray.method(num_returns=2)
    def logprobs(self, *groups: list[Trajectory]) -> tuple[int, TokenScores]:
        """This rank's share of the policy's log-probabilities before the update: the old ones of the ratio."""
        temperature = self._job.rollout.temperature

        def forward(module: nn.Module, batch: TrajectoryBatch) -> torch.Tensor:
            return module(batch.input_ids, batch.mask, temperature)[0]

        scores = self._score(groups, forward)
        return len(scores), TokenScores("policy", scores)

    def learn(self, request: LearnRequest, groups: int, *objects: Any) -> dict[str, float]:
        """Update the policy."""
        algorithm, temperature = self._job.algorithm, self._job.rollout.temperature
        batch, metrics = self._experience(request, groups, objects)
        if (skipped := self._skip(request, batch)) is not None:
            return metrics | skipped
        if request.step < self._idle_steps:
            return metrics

        def objective(module: nn.Module, part: ExperienceBatch, denominators: Denominators) -> LossTerms:
            logprobs, entropy = module(part.input_ids, part.response_mask, temperature)
            return policy_objective(logprobs, entropy, part, algorithm, denominators)

        return metrics | self._update(request, batch, objective)

    def sync_info(self, timeout_s: float) -> SyncInfo:
        """What a push will send."""
        return SyncInfo(tuple((s.name, s.dtype, s.shape) for s in self._sender.specs), self._bucket_bytes, timeout_s)

    def open_transfer(self, world_size: int, timeout_s: float) -> SyncAddress:
        """Listen for the rollout workers."""
        where = self._sender.open(self.address()[0], world_size, timeout_s)
        return SyncAddress(where.address, where.port, where.world_size, where.timeout_s)

    def join_sender(self, where: SyncAddress) -> None:
        """Meet them."""
        from rayrlhf.weight_sync.transfer_group import TransferRendezvous

        self._sender.join(TransferRendezvous(where.address, where.port, where.world_size, where.timeout_s))

    def send(self, timeout_s: float) -> SentWeights:
        """Push the weights."""
        report = self._sender.send(timeout_s)
        return SentWeights(report.digests, report.size_bytes, report.buckets)

    def close_transfer(self) -> None:
        """Let go of a push that failed."""
        self._sender.close()

    def probe(self, token_ids: tuple[int, ...]) -> list[float]:
        """log p(token t | < t) for t = 1, 2, … at temperature 1; a collective."""

        def forward(module: nn.Module, ids: torch.Tensor) -> torch.Tensor:
            return module(ids, torch.ones_like(ids, dtype=torch.float32))[0][0, 1:]

        ids = torch.tensor([token_ids], device=self._engine.device)
        logprobs: list[float] = self._engine.forward_each([ids], forward)[0].tolist()
        return logprobs

    @ray.method(num_returns=2)
    def journalled_rewards(self, step: int) -> tuple[int, Rewards]:
        """The rewards of a committed step."""
        rewards = self._journal.rewards(step)
        return len(rewards.by_id), rewards

    def commit(self, step: int, groups: int, *objects: Any) -> list[Sample]:
        """Write the step's journal file and show its best, median and worst answer."""
        trajectories = [t for group in objects[:groups] for t in group]
        rewards = Rewards({i: r for o in objects[groups:] if isinstance(o, Rewards) for i, r in o.by_id.items()})
        responses = {t.id: self._text(t) for t in trajectories}
        self._journal.commit(step, trajectories, rewards, responses)
        ranked = sorted(trajectories, key=lambda t: rewards.by_id[t.id].value or 0.0, reverse=True)
        return [self._sample(ranked[i], rewards) for i in (0, len(ranked) // 2, len(ranked) - 1)]

    def export(self, folder: str) -> None:
        """A directory that plain transformers and vLLM load; rank 0 writes, all ranks gather."""
        from rayrlhf.engines.export import export_model

        export_model(self._engine.module.model, self._source, self._tokenizer, as_path(folder), self._engine.rank == 0)

    def _sample(self, trajectory: Trajectory, rewards: Rewards) -> Sample:
        last, reward = trajectory.prompt.messages[-1]["content"], rewards.by_id[trajectory.id].value
        return Sample(last, self._text(trajectory), reward, trajectory.completion.finish_reason)

    def _text(self, trajectory: Trajectory) -> str:
        return str(self._tokenizer.decode(trajectory.completion.token_ids, skip_special_tokens=True))

    def _load_pretraining(self) -> list[tuple[int, ...]]:
        algorithm = self._job.algorithm
        if not isinstance(algorithm, PPOConfig) or algorithm.ptx_coefficient == 0:
            return []
        from rayrlhf.data.rows import read_texts

        assert self._job.data.pretraining is not None
        limit = min(self._job.data.max_sequence_tokens, self._config.micro_batch_tokens)
        rows = [tuple(self._tokenizer(t)["input_ids"][:limit]) for t in read_texts(self._job.data.pretraining)]
        return [row for row in rows if len(row) > 1]

    def _before_step(self) -> dict[str, float]:
        """PPO-ptx: add the pretraining gradient into the same buffers."""
        if not self._pretraining:
            return {}
        from rayrlhf.engines.pretraining import pretraining_batches

        algorithm = self._job.algorithm
        assert isinstance(algorithm, PPOConfig)
        seed = f"ptx-{self._job.seed}-{self._engine.optimizer_steps}"
        batches, tokens = pretraining_batches(
            self._pretraining, algorithm.ptx_rows, seed, self._config.micro_batch_tokens, self._engine
        )

        def objective(module: nn.Module, part: tuple[torch.Tensor, torch.Tensor]) -> LossTerms:
            input_ids, mask = part
            logprobs, _ = module(input_ids, mask)
            return cross_entropy_objective(logprobs, mask, tokens, algorithm.ptx_coefficient, "policy/ptx_loss_nats")

        return self._engine.accumulate(batches, objective)
