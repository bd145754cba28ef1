"""What a job would do (`--dry-run`) and what it has done: sizes in named units, and where everything is."""

from __future__ import annotations

from collections.abc import Mapping

import ray
from rich.console import Console

from rayrlhf.config.jobs import Job, RLJob
from rayrlhf.data.durable import exists
from rayrlhf.runtime.cluster import log_folder
from rayrlhf.stages.bundles import role_bundles
from rayrlhf.stages.run_directory import RunDirectory, to_toml


def derived_sizes(job: Job) -> dict[str, str]:
    """Every size that follows from the config, with its unit and how it was made."""
    learner = job.learner
    if not isinstance(job, RLJob):
        return {
            "rows per optimizer step": f"{job.run.batch_rows} (run.batch_rows)",
            "rows per rank and optimizer step": f"about {job.run.batch_rows / learner.ranks:g}",
            "tokens per micro-batch": f"at most {learner.micro_batch_tokens} (learner.micro_batch_tokens)",
            "epochs": f"{job.run.epochs}",
        }
    rollout, algorithm = job.rollout, job.algorithm
    trajectories = rollout.prompts_per_step * rollout.samples_per_prompt
    updates = algorithm.epochs * algorithm.minibatches
    longest = job.data.max_prompt_tokens + rollout.max_tokens
    return {
        "trajectories per step": (
            f"{trajectories} = {rollout.prompts_per_step} prompts x {rollout.samples_per_prompt} samples"
        ),
        "prompts per rollout worker and step": f"{rollout.prompts_per_step / rollout.workers:g}",
        "optimizer steps per step": f"{updates} = {algorithm.epochs} epochs x {algorithm.minibatches} minibatches",
        "trajectories per optimizer step": f"about {trajectories / algorithm.minibatches:g}",
        "trajectories per rank and optimizer step": f"about {trajectories / algorithm.minibatches / learner.ranks:g}",
        "longest trajectory": f"{longest} tokens = {job.data.max_prompt_tokens} prompt + {rollout.max_tokens} answer",
        "response tokens per step": f"at most {trajectories * rollout.max_tokens}",
        "tokens per micro-batch": f"at most {learner.micro_batch_tokens} (learner.micro_batch_tokens)",
        "steps": f"{job.run.steps}, {job.run.steps * trajectories} episodes in all",
        "rollout engine ranks": f"{rollout.workers * rollout.tensor_parallel}",
        "staleness": f"at most {rollout.max_staleness} steps",
        "checkpoints": f"every {job.checkpoint.every_steps} steps, {job.checkpoint.keep} kept",
        **_reservations(job),
    }


def _reservations(job: RLJob) -> dict[str, str]:
    bundles = role_bundles(job)
    rows = {f"reserved for {b.role}": f"{b.count} x ({b.cpus:g} CPUs, {b.gpus:g} GPUs)" for b in bundles}
    cpus, gpus = sum(b.count * b.cpus for b in bundles), sum(b.count * b.gpus for b in bundles)
    return rows | {"reserved in all": f"{cpus:g} CPUs, {gpus:g} GPUs"}


def print_plan(job: Job) -> None:
    """The resolved config and every derived size."""
    console = Console(highlight=False, soft_wrap=True)
    console.print(to_toml(job), markup=False)
    for name, value in derived_sizes(job).items():
        console.print(f"# {name}: {value}", markup=False)


def print_summary(directory: RunDirectory, metrics: Mapping[str, float]) -> None:
    """Where everything is."""
    console = Console(highlight=False, soft_wrap=True)
    for name, value in metrics.items():
        console.print(f"{name:<36} {value:.4f}", markup=False)
    rows = {
        "report": directory.report,
        "model": directory.model,
        "metrics": directory.metrics,
        "config": directory.config,
        "TensorBoard": directory.tensorboard,
        "trajectories": directory.trajectories,
        "checkpoints": directory.checkpoints,
        "timeline": directory.timeline,
    }
    if ray.is_initialized():
        rows["engine logs"] = log_folder()
    for name, path in rows.items():
        if exists(path):
            console.print(f"{name:<14} {path}", markup=False)
