"""What every role of a job reserves, from its config alone: neither Ray nor torch is needed to know."""

from __future__ import annotations

from rayrlhf.config.jobs import RLJob, SupervisedJob
from rayrlhf.config.sections import ReferenceConfig, RewardConfig, RolloutConfig, TrainingConfig
from rayrlhf.runtime.bundles import RoleBundle


def role_bundles(job: RLJob | SupervisedJob) -> list[RoleBundle]:
    """What every role reserves; SFT and reward modelling have a learner only."""
    if not isinstance(job, RLJob):
        return [_training("learner", job.learner)]
    bundles = [_rollout(job.rollout), _training("learner", job.learner), _scoring("reward", job.reward)]
    if job.has_reference:
        bundles.append(_scoring("reference", job.reference))
    if job.has_critic:
        bundles.append(_training("critic", job.critic))
    return bundles


def _rollout(config: RolloutConfig) -> RoleBundle:
    gpus = config.gpus * config.tensor_parallel
    return RoleBundle("rollout", config.workers, config.cpus, gpus, labels=config.node_labels)


def _training(role: str, config: TrainingConfig) -> RoleBundle:
    return RoleBundle(
        role, config.ranks, config.cpus, config.gpus, together=True, spread=config.spread, labels=config.node_labels
    )


def _scoring(role: str, config: RewardConfig | ReferenceConfig) -> RoleBundle:
    return RoleBundle(role, config.workers, config.cpus, config.gpus, labels=config.node_labels)
