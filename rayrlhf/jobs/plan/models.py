"""The models of a job: the policy's shape, and those of the roles that have another one."""

from __future__ import annotations

from dataclasses import dataclass

from rayrlhf.config.jobs import RLJob
from rayrlhf.jobs.plan.model_shape import ModelShape, read_shape


@dataclass(frozen=True, slots=True)
class JobModels:
    """Shapes by role."""

    policy: ModelShape
    critic: ModelShape
    reference: ModelShape
    reward: ModelShape | None
    """None where rewards come from a function or a service."""


def read_models(job: RLJob) -> JobModels:
    """What the job would load; a path is read once."""
    known: dict[str, ModelShape] = {}

    def shape(path: str) -> ModelShape:
        if path not in known:
            known[path] = read_shape(path)
        return known[path]

    reward = shape(job.reward.model) if job.reward.model else None
    critic = job.critic.model or job.reward.model or job.model.path
    return JobModels(shape(job.model.path), shape(critic), shape(job.reference.model or job.model.path), reward)
