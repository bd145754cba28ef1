"""The three jobs that a TOML can describe, with the checks that need more than one section."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from rayrlhf.config.base import NonNegativeFloat, Section
from rayrlhf.config.sections import (
    AlgorithmConfig,
    CheckpointConfig,
    CriticConfig,
    DataConfig,
    LearnerConfig,
    ModelConfig,
    PPOConfig,
    RecoveryConfig,
    ReferenceConfig,
    RewardConfig,
    RolloutConfig,
    RunConfig,
    SupervisedRecoveryConfig,
    SupervisedRunConfig,
    TrainingConfig,
    WeightSyncConfig,
)

RunName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
Seed = Annotated[int, Field(ge=0, lt=2**31)]


class RLJob(Section):
    """`rayrlhf rl`: improve a policy against a reward."""

    name: RunName = Field(description="names the run directory")
    seed: Seed = Field(0, description="every random draw derives from it")
    model: ModelConfig
    data: DataConfig
    algorithm: AlgorithmConfig
    rollout: RolloutConfig
    learner: LearnerConfig = LearnerConfig()
    critic: CriticConfig = CriticConfig()
    reference: ReferenceConfig = ReferenceConfig()
    reward: RewardConfig
    weight_sync: WeightSyncConfig = WeightSyncConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    recovery: RecoveryConfig = RecoveryConfig()
    run: RunConfig

    @property
    def has_critic(self) -> bool:
        """Whether the algorithm learns values."""
        return isinstance(self.algorithm, PPOConfig)

    @property
    def score_kinds(self) -> tuple[str, ...]:
        """Which token scores a step has to have (`TokenScores.kind`)."""
        reference, value = ("reference",) * self.has_reference, ("value",) * self.has_critic
        return ("policy", *reference, *value)

    @property
    def has_reference(self) -> bool:
        """Whether a frozen reference is scored (PPO always reports its KL; GRPO only pays for it when used)."""
        return isinstance(self.algorithm, PPOConfig) or self.algorithm.kl_coefficient > 0

    @property
    def corrects_importance(self) -> bool:
        """Whether tokens are weighted for the sampler's other weights or arithmetic (`importance_correction`)."""
        exact = self.model.dtype == "float32" and self.rollout.max_staleness == 0
        wanted = self.algorithm.importance_correction
        return wanted == "token_tis" or (wanted == "auto" and not exact)

    @property
    def side_by_side(self) -> int:
        """Processes that score or learn at the same time: what colocated roles share a node's cores among."""
        return self.learner.ranks + (self.critic.ranks if self.has_critic else 0)

    @model_validator(mode="after")
    def _rows_reach_every_rank(self) -> Self:
        trajectories = self.rollout.prompts_per_step * self.rollout.samples_per_prompt
        trained = {"learner": self.learner, **({"critic": self.critic} if self.has_critic else {})}
        for role, config in trained.items():
            check_precision(role, config, self.model)
            if trajectories < self.algorithm.minibatches * config.ranks:
                raise ValueError(
                    f"a step has {trajectories} trajectories (rollout.prompts_per_step x samples_per_prompt), fewer "
                    f"than algorithm.minibatches x {role}.ranks = {self.algorithm.minibatches * config.ranks}"
                )
        return self

    @model_validator(mode="after")
    def _micro_batches_hold_a_trajectory(self) -> Self:
        longest = self.data.max_prompt_tokens + self.rollout.max_tokens
        budgets = {"learner": self.learner.micro_batch_tokens}
        if self.has_critic:
            budgets["critic"] = self.critic.micro_batch_tokens
        if self.has_reference:
            budgets["reference"] = self.reference.micro_batch_tokens
        for role, budget in budgets.items():
            if longest > budget:
                raise ValueError(
                    f"the longest trajectory (data.max_prompt_tokens + rollout.max_tokens = {longest}) does not fit "
                    f"{role}.micro_batch_tokens = {budget}"
                )
        if self.reward.model is not None and self.reward.max_sequence_tokens > self.reward.micro_batch_tokens:
            raise ValueError(
                f"reward.max_sequence_tokens = {self.reward.max_sequence_tokens} does not fit "
                f"reward.micro_batch_tokens = {self.reward.micro_batch_tokens}"
            )
        return self

    @model_validator(mode="after")
    def _rewards_come_in_time(self) -> Self:
        longest_s = self.reward.queue_timeout_s + self.reward.timeout_s
        if self.reward.url is not None and longest_s >= self.run.phase_timeout_s:
            raise ValueError(
                f"reward.queue_timeout_s + reward.timeout_s = {longest_s:g} is not below run.phase_timeout_s = "
                f"{self.run.phase_timeout_s:g}: a reward worker that waits would be taken for one that hangs"
            )
        return self

    @model_validator(mode="after")
    def _weights_can_travel(self) -> Self:
        """NCCL joins whole GPUs, one a rank; gloo joins processes without."""
        learner, rollout = self.learner.gpus, self.rollout.gpus
        if (learner > 0) != (rollout > 0) or any(gpus not in (0, 1) for gpus in (learner, rollout)):
            raise ValueError(
                f"learner.gpus = {learner:g} and rollout.gpus = {rollout:g}: weights travel between whole GPUs or "
                "between processes without any, so set both to 1 or both to 0"
            )
        return self

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        algorithm, rollout = self.algorithm, self.rollout
        check_sources("rl", self.data, "prompts", "pretraining")
        if algorithm.kind == "grpo" and rollout.samples_per_prompt < 2:
            raise ValueError("algorithm.kind = 'grpo' compares answers: set rollout.samples_per_prompt to 2 or more")
        if isinstance(algorithm, PPOConfig) and algorithm.ptx_coefficient > 0 and self.data.pretraining is None:
            raise ValueError("algorithm.ptx_coefficient > 0 needs data.pretraining")
        return self


def check_sources(command: str, data: DataConfig, needed: str, optional: str) -> None:
    """The job's own source is there, and none is given that it would never read."""
    if getattr(data, needed) is None:
        raise ValueError(f"data.{needed} is missing: {command} learns from it")
    for key in ("prompts", "demonstrations", "comparisons", "pretraining", "held_out"):
        if key not in (needed, optional) and getattr(data, key) is not None:
            raise ValueError(f"data.{key}: {command} does not read it; remove the key")


def check_precision(role: str, config: TrainingConfig, model: ModelConfig) -> None:
    """DeepSpeed's unsharded bfloat16 optimizer keeps no state that could be saved."""
    if model.dtype == "bfloat16" and config.zero_stage == 0:
        raise ValueError(f"{role}.zero_stage = 0 cannot be saved with model.dtype = 'bfloat16': use 1, 2 or 3")


class SupervisedJob(Section):
    """What SFT and reward modelling share."""

    name: RunName = Field(description="names the run directory")
    seed: Seed = Field(0, description="every random draw derives from it")
    model: ModelConfig
    data: DataConfig
    learner: LearnerConfig
    checkpoint: CheckpointConfig = CheckpointConfig(every_steps=50)
    recovery: SupervisedRecoveryConfig = SupervisedRecoveryConfig()
    run: SupervisedRunConfig = SupervisedRunConfig()

    @model_validator(mode="after")
    def _rows_fit(self) -> Self:
        check_precision("learner", self.learner, self.model)
        if self.data.max_sequence_tokens > self.learner.micro_batch_tokens:
            raise ValueError(
                f"data.max_sequence_tokens = {self.data.max_sequence_tokens} does not fit "
                f"learner.micro_batch_tokens = {self.learner.micro_batch_tokens}"
            )
        if self.run.batch_rows < self.learner.ranks:
            raise ValueError(
                f"run.batch_rows = {self.run.batch_rows} is fewer than learner.ranks = {self.learner.ranks}"
            )
        return self


class SFTJob(SupervisedJob):
    """`rayrlhf sft`: supervised fine-tuning on demonstrations."""

    learner: LearnerConfig = LearnerConfig(learning_rate=1e-5, schedule="cosine")

    @model_validator(mode="after")
    def _has_data(self) -> Self:
        check_sources("sft", self.data, "demonstrations", "held_out")
        return self


class RewardJob(SupervisedJob):
    """`rayrlhf reward`: fit a reward model on comparisons."""

    learner: LearnerConfig = LearnerConfig(learning_rate=9e-6, schedule="cosine")
    centering_coefficient: NonNegativeFloat = Field(0.0, description="weight of mean((chosen + rejected)^2)")
    normalisation: Literal["none", "mean", "mean_std"] = Field(
        "mean_std", description="scores of held-out answers get mean 0 (and deviation 1), stored beside the weights"
    )

    @model_validator(mode="after")
    def _has_data(self) -> Self:
        check_sources("reward", self.data, "comparisons", "held_out")
        return self


Job = RLJob | SFTJob | RewardJob
