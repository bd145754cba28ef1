"""The reward worker: a Ray actor around a reward model, a reward function or a reward service."""

from __future__ import annotations

import ray

from rayrlhf.config.jobs import RLJob
from rayrlhf.rewards.remote import Pace, RemoteReward, RemoteService
from rayrlhf.rewards.requests import RewardRequest, RewardSource
from rayrlhf.roles.base import Role
from rayrlhf.runtime.environment import thread_count
from rayrlhf.types import Reward, Rewards, Trajectory


class RewardRole(Role):
    """See `RewardWorker`."""

    def __init__(self, job: RLJob, service: RemoteService | None, rank: int) -> None:
        super().__init__(thread_count(job.reward.threads, job.side_by_side))
        from rayrlhf.engines.models import load_tokenizer

        self._tokenizer = load_tokenizer(job.model.path)
        self._penalty = job.rollout.truncated_reward if job.rollout.truncated == "penalise" else None
        self._source = _source(job, service, rank)

    @ray.method(num_returns=2)
    def score(self, *groups: list[Trajectory]) -> tuple[int, Rewards]:
        """Rewards of all trajectories in the groups; answers cut at max_tokens get at most the penalty."""
        trajectories = [t for group in groups for t in group]
        rewards = self._source.score([self._request(t) for t in trajectories])
        by_id = {t.id: self._truncated(t, r) for t, r in zip(trajectories, rewards, strict=True)}
        return len(by_id), Rewards(by_id)

    def last_failure(self) -> str:
        """Why the last reward that failed did so."""
        return self._source.last_failure

    def _request(self, trajectory: Trajectory) -> RewardRequest:
        prompt, completion = trajectory.prompt, trajectory.completion
        text = self._tokenizer.decode(completion.token_ids, skip_special_tokens=True)
        return RewardRequest(prompt.messages, str(text), completion.finish_reason, prompt.answer, prompt.metadata)

    def _truncated(self, trajectory: Trajectory, reward: Reward) -> Reward:
        if self._penalty is None or reward.value is None or trajectory.completion.finish_reason == "stop":
            return reward
        return Reward(min(reward.value, self._penalty), {**reward.components, "truncated": self._penalty}, "ok")


def _source(job: RLJob, service: RemoteService | None, rank: int) -> RewardSource:
    config = job.reward
    if service is not None:
        return RemoteReward(service, config.timeout_s, config.queue_timeout_s, Pace(seed=rank))
    if config.function is not None:
        from rayrlhf.rewards.function import FunctionReward

        return FunctionReward(config.function, config.timeout_s)
    from rayrlhf.rewards.model import ModelReward

    assert config.model is not None
    return ModelReward(config.model, job.model, config.micro_batch_tokens, config.max_sequence_tokens)
