"""The sections of a job's config. Each key's unit is in its name or its description; docs are made from these."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from rayrlhf.config.base import (
    Directory,
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    PathOrHubId,
    PositiveFloat,
    PositiveInt,
    Section,
    ServiceUrl,
    Sha256,
)

Seconds = PositiveFloat
RUN_DIRECTORY = "parent of the run directory: a path that all nodes share, or a URL such as s3://bucket/runs"


class ModelConfig(Section):
    """Which model starts the job, and in which precision it is trained and sampled."""

    path: PathOrHubId = Field(description="directory or hub id of a Hugging Face causal language model")
    digest: Sha256 | None = Field(
        None, description="SHA-256 of the directory's `digests.json`, which stands for all its files; unset: any model"
    )
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="of the weights on every role")
    gradient_checkpointing: bool = Field(False, description="recompute activations in the backward pass")
    attention: Literal["sdpa", "eager", "flash_attention_2"] = Field(
        "sdpa", description="attention kernels of the learner"
    )


class DataConfig(Section):
    """Where the rows come from: JSONL or Parquet files, or hub ids read through `datasets`."""

    prompts: PathOrHubId | None = Field(None, description="rl: prompts to roll out")
    demonstrations: PathOrHubId | None = Field(None, description="sft: conversations with the wanted response")
    comparisons: PathOrHubId | None = Field(None, description="reward: pairs or rankings")
    pretraining: PathOrHubId | None = Field(None, description="ppo-ptx: rows with a `text`")
    held_out: PathOrHubId | None = Field(None, description="rows that are never trained on, for evaluation")
    max_prompt_tokens: PositiveInt = Field(512, description="longer prompts are left out, counted and named")
    max_sequence_tokens: PositiveInt = Field(1024, description="supervised stages: longest row, prompt and response")


class KLController(Section):
    """Adaptive KL coefficient of LMHP (2019): proportional control towards `target_nats` per sequence."""

    target_nats: PositiveFloat = Field(6.0, description="wanted mean KL of a whole response, nats")
    horizon_episodes: PositiveInt = Field(10_000, description="episodes over which an error is worked off")


class PolicyLossKeys(Section):
    """Keys that every policy-gradient algorithm shares."""

    clip_low: PositiveFloat = Field(0.2, description="ratio is clipped below at 1 - clip_low")
    clip_high: PositiveFloat = Field(0.2, description="ratio is clipped above at 1 + clip_high")
    dual_clip: Annotated[float, Field(gt=1)] | None = Field(
        None, description="bound of the loss where A < 0; usual value 3"
    )
    entropy_coefficient: NonNegativeFloat = Field(0.0, description="weight of the entropy bonus")
    epochs: PositiveInt = Field(1, description="passes over a step's trajectories")
    minibatches: PositiveInt = Field(1, description="optimizer steps in one pass")
    importance_correction: Literal["auto", "none", "token_tis"] = Field(
        "auto",
        description="token_tis: weight tokens by min(policy/behaviour, importance_cap); "
        "auto: token_tis unless the run is synchronous in float32",
    )
    importance_cap: PositiveFloat = Field(2.0, description="cap C of the truncated importance weight")


class PPOConfig(PolicyLossKeys):
    """PPO with a critic and the KL penalty inside the reward (InstructGPT)."""

    kind: Literal["ppo"] = Field(description="PPO with a critic, KL in the reward")
    kl_coefficient: NonNegativeFloat = Field(
        0.05, description="beta of the per-token penalty beta * (log pi - log ref)"
    )
    kl_controller: KLController | None = Field(None, description="adapt kl_coefficient; unset keeps it fixed")
    gamma: Fraction = Field(1.0, description="discount")
    gae_lambda: Fraction = Field(0.95, description="GAE lambda")
    value_clip: PositiveFloat = Field(0.2, description="the value may move this far from its rollout value")
    value_coefficient: PositiveFloat = Field(0.5, description="scale of the critic's loss")
    reward_clip: PositiveFloat | None = Field(None, description="scores are clipped to ± this; KL is not")
    whiten_advantages: bool = Field(True, description="zero mean, unit variance over all response tokens of the step")
    aggregation: Literal["token_mean", "sequence_mean_token_sum", "sequence_mean_token_mean"] = Field(
        "token_mean", description="how token losses become one number"
    )
    ptx_coefficient: NonNegativeFloat = Field(
        0.0, description="weight of the pretraining loss (PPO-ptx); needs data.pretraining"
    )
    ptx_rows: PositiveInt = Field(8, description="pretraining rows per optimizer step")
    critic_warmup_steps: NonNegativeInt = Field(0, description="first steps that train the critic alone")

    @property
    def reward_bounds(self) -> tuple[float, float] | None:
        """Where scores are clipped."""
        return (-self.reward_clip, self.reward_clip) if self.reward_clip else None


class GRPOConfig(PolicyLossKeys):
    """GRPO: advantages from a group of answers to the same prompt; KL, if any, as a loss term (k3)."""

    kind: Literal["grpo"] = Field(description="no critic: answers to one prompt are compared")
    kl_coefficient: NonNegativeFloat = Field(0.0, description="weight of the k3 loss against the reference")
    normalise_std: bool = Field(True, description="divide by the group's standard deviation (off: Dr. GRPO)")
    epsilon: PositiveFloat = Field(1e-6, description="added to the standard deviation")
    aggregation: Literal["token_mean", "sequence_mean_token_sum", "sequence_mean_token_mean"] = Field(
        "sequence_mean_token_mean", description="how token losses become one number"
    )


AlgorithmConfig = Annotated[PPOConfig | GRPOConfig, Field(discriminator="kind")]


class RoleResources(Section):
    """What Ray reserves for one actor of a role. Reservations are accounting: colocated roles take turns."""

    cpus: PositiveFloat = Field(0.25, description="logical CPUs that Ray reserves for each actor")
    gpus: NonNegativeFloat = Field(0.0, description="GPUs (fractions share one) that Ray reserves for each actor")
    threads: PositiveInt | None = Field(
        None,
        description="compute threads of each actor; unset: its node's cores, shared by all that work side by side",
    )
    node_labels: dict[str, str] = Field({}, description='only on nodes with these Ray labels, as in { pool = "a100" }')


class RolloutConfig(RoleResources):
    """Rollout workers: vLLM engines that generate."""

    workers: PositiveInt = Field(1, description="vLLM engines")
    tensor_parallel: PositiveInt = Field(1, description="ranks of one engine")
    prompts_per_step: PositiveInt = Field(description="prompts in one step")
    samples_per_prompt: PositiveInt = Field(1, description="answers to each prompt")
    max_tokens: PositiveInt = Field(description="longest answer, tokens")
    temperature: PositiveFloat = Field(1.0, description="of sampling; all log-probabilities use it")
    max_staleness: NonNegativeInt = Field(
        0, description="steps that trajectories may lag behind the policy; 0 is synchronous"
    )
    max_concurrent: PositiveInt = Field(64, description="sequences one engine decodes at a time")
    gpu_memory_share: Fraction = Field(0.5, description="GPU: share of memory for weights and KV cache")
    kv_cache_gib: PositiveInt = Field(1, description="CPU: GiB of KV cache per engine rank")
    enforce_eager: bool = Field(
        True, description="no graph compilation: starts faster, and the CPU gains nothing by it"
    )
    truncated: Literal["keep", "mask", "penalise"] = Field(
        "penalise",
        description="answers cut at max_tokens: train as they are, leave out of the loss, or lower their reward",
    )
    truncated_reward: float = Field(-1.0, description="penalise: the reward becomes min(reward, this)")


class TrainingConfig(RoleResources):
    """What every trained model shares: ranks, ZeRO, optimizer, schedule, micro-batches."""

    ranks: PositiveInt = Field(1, description="data-parallel DeepSpeed ranks")
    spread: bool = Field(False, description="place ranks on different nodes where there are enough")
    zero_stage: Literal[0, 1, 2, 3] = Field(2, description="what is sharded: nothing, optimizer, gradients, weights")
    optimizer: Literal["adamw", "sgd"] = Field("adamw", description="sgd is plain, for tests")
    learning_rate: PositiveFloat = Field(1e-6, description="peak learning rate")
    betas: tuple[float, float] = Field((0.9, 0.95), description="AdamW betas")
    adam_epsilon: PositiveFloat = Field(1e-8, description="AdamW epsilon")
    weight_decay: NonNegativeFloat = Field(0.0, description="decoupled weight decay")
    max_gradient_norm: PositiveFloat | None = Field(1.0, description="clip the global norm; unset: no clipping")
    schedule: Literal["constant", "linear", "cosine"] = Field(
        "constant", description="after warmup; cosine ends at 10 %, linear at 0"
    )
    warmup_steps: NonNegativeInt = Field(0, description="optimizer steps of linear warmup")
    micro_batch_tokens: PositiveInt = Field(4096, description="padded tokens of one forward and backward pass")


class LearnerConfig(TrainingConfig):
    """The policy's learner group."""


class CriticConfig(TrainingConfig):
    """The critic's group; it starts from the reward model, head included, unless `model` says otherwise."""

    model: PathOrHubId | None = Field(
        None,
        description="a sequence-classification model; unset: the reward model, else the policy with a zero head",
    )
    learning_rate: PositiveFloat = Field(5e-6, description="peak learning rate")


class ReferenceConfig(RoleResources):
    """The frozen policy that KL is measured against."""

    workers: PositiveInt = Field(1, description="actors")
    model: PathOrHubId | None = Field(None, description="directory or hub id; unset: model.path")
    micro_batch_tokens: PositiveInt = Field(4096, description="padded tokens of one forward pass")


class RewardConfig(RoleResources):
    """Where rewards come from: a reward model, a Python function or a reward service, one of the three."""

    model: PathOrHubId | None = Field(None, description="directory or hub id of a sequence-classification model")
    function: str | None = Field(None, description="`package.module:name` of a function of a RewardRequest")
    url: ServiceUrl | None = Field(
        None, description="http://host:port of a reward service; its token comes from RAYRLHF_REWARD_TOKEN"
    )
    workers: PositiveInt = Field(1, description="actors")
    timeout_s: Seconds = Field(30.0, description="function, url: deadline of scoring one answer, waiting not counted")
    queue_timeout_s: Seconds = Field(
        600.0, description="url: how long answers may wait for the service: to be up, to have room, to be tried again"
    )
    max_failed_share: Fraction = Field(0.1, description="stop when more of a step's rewards failed")
    micro_batch_tokens: PositiveInt = Field(4096, description="model: padded tokens of one forward pass")
    max_sequence_tokens: PositiveInt = Field(2048, description="model: longest sequence; the left of the prompt is cut")

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if [self.model, self.function, self.url].count(None) != 2:
            raise ValueError("give exactly one of reward.model, reward.function and reward.url")
        return self


class WeightSyncConfig(Section):
    """How weights travel from the learner to the rollout workers, and how that is proven."""

    bucket_mib: PositiveInt = Field(256, description="MiB of one transfer bucket")
    timeout_s: Seconds = Field(300.0, description="deadline of one push")
    logprob_tolerance: PositiveFloat | None = Field(
        None,
        description="largest difference of the probe's log-probabilities; unset: 1e-3 in float32, 0.75 in bfloat16",
    )


class CheckpointConfig(Section):
    """When state is saved and how much of it is kept."""

    every_steps: PositiveInt = Field(10, description="steps between checkpoints; the last step is always saved")
    keep: PositiveInt = Field(2, description="complete checkpoints to keep")


class SupervisedRecoveryConfig(Section):
    """What a stage survives by itself, and when it gives up."""

    max_failures: NonNegativeInt = Field(3, description="restarts of the ranks; one more failure ends the stage")
    max_bad_steps: NonNegativeInt = Field(
        3, description="steps with NaN or infinite numbers that are not applied; one more stops the run"
    )
    grace_s: Seconds = Field(20.0, description="time to save after SIGTERM or Ctrl-C")


class RecoveryConfig(SupervisedRecoveryConfig):
    """What a run survives by itself, and when it gives up."""

    max_failures: NonNegativeInt = Field(
        3, description="failures of one role between two newly finished steps; one more stops the run"
    )
    backoff_s: NonNegativeFloat = Field(2.0, description="wait before the second restart of a role; then it doubles")
    max_bad_prompts: NonNegativeInt = Field(
        10, description="prompts that no worker can answer and that are left out; one more stops the run"
    )
    stall_s: Seconds = Field(600.0, description="no answer for this long: write the stacks of all roles")


class RunConfig(Section):
    """Where the run lives and how long it may wait."""

    directory: Directory = Field("runs", description=RUN_DIRECTORY)
    steps: PositiveInt = Field(description="optimizer steps of the policy loop")
    start_timeout_s: Seconds = Field(600.0, description="deadline for placing and starting all roles")
    phase_timeout_s: Seconds = Field(1800.0, description="deadline of one phase of one step")
    sample_every_steps: PositiveInt = Field(5, description="steps between tables of samples")
    ray_address: str | None = Field(None, description="an existing cluster; unset: start one here")
    autoscaling: bool = Field(False, description="the cluster adds nodes on demand: wait for room, do not refuse")


class SupervisedRunConfig(Section):
    """A supervised run: epochs instead of steps."""

    directory: Directory = Field("runs", description=RUN_DIRECTORY)
    epochs: PositiveInt = Field(1, description="passes over the data")
    batch_rows: PositiveInt = Field(
        32, description="demonstrations, or prompts with their comparisons, per optimizer step"
    )
    timeout_s: Seconds = Field(1800.0, description="deadline of every wait of one rank for another")
    ray_address: str | None = Field(None, description="an existing cluster; unset: start one here")
    autoscaling: bool = Field(False, description="the cluster adds nodes on demand: wait for room, do not refuse")
