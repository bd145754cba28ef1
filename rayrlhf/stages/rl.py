"""`rayrlhf rl`: check everything, place the roles, run the loop, export the policy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from rayrlhf.config.jobs import RLJob
from rayrlhf.config.sections import CriticConfig, LearnerConfig
from rayrlhf.data.prompts import PromptSet, render_prompts
from rayrlhf.data.rows import read_prompts, read_texts
from rayrlhf.data.template import end_of_turn_ids
from rayrlhf.engines.models import (
    generation_eos,
    load_tokenizer,
    require_length,
    require_reward_head,
    require_same_vocabulary,
    require_weights,
)
from rayrlhf.engines.process_group import Rendezvous
from rayrlhf.errors import CheckpointError
from rayrlhf.loop.checkpoint import CheckpointStore, load_progress
from rayrlhf.loop.progress import Progress, config_digest
from rayrlhf.loop.rlhf_loop import RLHFLoop, Roles
from rayrlhf.loop.stream import RolloutStream
from rayrlhf.observability.display import Display
from rayrlhf.observability.timeline import Timeline
from rayrlhf.observability.trackers import JsonlTracker, TensorBoardTracker, Tracker
from rayrlhf.rewards.function import import_function
from rayrlhf.role_types import LearnerWorker
from rayrlhf.roles.critic import CriticRole
from rayrlhf.roles.learner import LearnerRole
from rayrlhf.roles.reference import ReferenceRole
from rayrlhf.roles.reward import RewardRole
from rayrlhf.roles.rollout import RolloutRole, RolloutSetup
from rayrlhf.roles.training import TrainingRole
from rayrlhf.runtime.cluster import Placement, RoleBundle, check_feasible, connect, count_nodes
from rayrlhf.runtime.worker_group import WorkerGroup, create_group, gather
from rayrlhf.stages.run_directory import RunDirectory
from rayrlhf.weight_sync.push import SyncTolerance, WeightSync

PROBE_TOKENS = 64


@dataclass(frozen=True, slots=True)
class RLInputs:
    """What `prepare` found before anything was allocated."""

    prompts: PromptSet
    stop_token_ids: tuple[int, ...]
    directory: RunDirectory
    checkpoint: Path | None
    progress: Progress


def prepare(job: RLJob, resume: str = "auto") -> RLInputs:
    """Check model, reward, data and checkpoint; starts nothing and writes nothing."""
    tokenizer = load_tokenizer(job.model.path)
    _check_models(job, tokenizer)
    if job.data.pretraining is not None:
        read_texts(job.data.pretraining)
    if job.reward.function is not None:
        import_function(job.reward.function)
    assert job.data.prompts is not None
    prompts = render_prompts(read_prompts(job.data.prompts), tokenizer, job.data.max_prompt_tokens)
    if prompts.overlong_ids:
        print(
            f"{job.data.prompts}: left out {len(prompts.overlong_ids)} prompts longer than data.max_prompt_tokens = "
            f"{job.data.max_prompt_tokens}, the first is {prompts.overlong_ids[0]}"
        )
    directory = RunDirectory(Path(job.run.directory) / job.name)
    checkpoint, progress = _resume_point(job, directory, resume)
    return RLInputs(
        prompts, end_of_turn_ids(tokenizer, generation_eos(job.model.path)), directory, checkpoint, progress
    )


def _check_models(job: RLJob, tokenizer: PreTrainedTokenizerBase) -> None:
    """Everything that can be told from the files of the models, before any of them is loaded."""
    require_weights(job.model.path)
    require_length(job.model.path, job.data.max_prompt_tokens + job.rollout.max_tokens)
    if job.reward.model is not None:
        load_tokenizer(job.reward.model)
        require_reward_head(job.reward.model, "reward.model")
    if job.has_reference and job.reference.model is not None:
        require_weights(job.reference.model)
        require_same_vocabulary(tokenizer, job.reference.model, "reference.model")
    critic = job.critic.model or job.reward.model
    if job.has_critic and critic is not None:
        require_reward_head(critic, "critic.model")
        require_same_vocabulary(tokenizer, critic, "critic.model (unset: reward.model)")


def run_rl(job: RLJob, resume: str = "auto") -> RunDirectory:
    """Run the job to its last step and export the policy; returns where everything is."""
    inputs = prepare(job, resume)
    connect(job.run.ray_address)
    bundles = role_bundles(job)
    check_feasible(bundles)
    inputs.directory.create(job)
    display = Display(job.run.steps, job.run.sample_every_steps)
    timeline = Timeline(watcher=display.phase)
    placement = Placement(bundles)
    try:
        with timeline.span("start", inputs.progress.step + 1):
            placement.wait(job.run.start_timeout_s)
            roles = start_roles(job, inputs, placement)
        loop = RLHFLoop(
            job,
            roles,
            RolloutStream(roles.rollout, inputs.prompts, job.rollout, job.seed, job.run.steps),
            weight_sync(job, roles, inputs.prompts),
            CheckpointStore(inputs.directory.checkpoints, job.checkpoint.keep, config_digest(job)),
            [*_trackers(inputs), display],
            timeline,
            inputs.progress,
        )
        loop.run()
        with timeline.span("export", job.run.steps):
            exports = roles.learner.start(LearnerWorker.export, str(inputs.directory.model))
            gather(exports, job.run.phase_timeout_s, "export")
        timeline.write(inputs.directory.timeline)
    finally:
        display.close()
        placement.release()
    return inputs.directory


def role_bundles(job: RLJob) -> list[RoleBundle]:
    """What every role reserves."""
    rollout, learner = job.rollout, job.learner
    bundles = [
        RoleBundle("rollout", rollout.workers, rollout.cpus, rollout.gpus * rollout.tensor_parallel),
        RoleBundle("learner", learner.ranks, learner.cpus, learner.gpus, together=True, spread=learner.spread),
        RoleBundle("reward", job.reward.workers, job.reward.cpus, job.reward.gpus),
    ]
    if job.has_reference:
        bundles.append(RoleBundle("reference", job.reference.workers, job.reference.cpus, job.reference.gpus))
    if job.has_critic:
        critic = job.critic
        bundles.append(
            RoleBundle("critic", critic.ranks, critic.cpus, critic.gpus, together=True, spread=critic.spread)
        )
    return bundles


def start_roles(job: RLJob, inputs: RLInputs, placement: Placement) -> Roles:
    """Create every actor, then wait for all of them together."""
    journal = str(inputs.directory.trajectories)

    setup = RolloutSetup.of(job, inputs.stop_token_ids, journal, count_nodes())
    learner: WorkerGroup[Any] = create_group(placement, "learner", LearnerRole, job.learner.ranks, job, journal)
    critic: WorkerGroup[Any] | None = None
    if job.has_critic:
        critic = create_group(placement, "critic", CriticRole, job.critic.ranks, job)
    rollout: WorkerGroup[Any] = create_group(placement, "rollout", RolloutRole, job.rollout.workers, setup)
    reward: WorkerGroup[Any] = create_group(placement, "reward", RewardRole, job.reward.workers, job)
    reference: WorkerGroup[Any] | None = None
    if job.has_reference:
        reference = create_group(placement, "reference", ReferenceRole, job.reference.workers, job)
    timeout_s = job.run.start_timeout_s
    starting = start_training_group(learner, job.learner, inputs.checkpoint, "policy", timeout_s)
    if critic:
        starting += start_training_group(critic, job.critic, inputs.checkpoint, "critic", timeout_s)
    for others in (rollout, reward, reference):
        starting += others.start_ready() if others else []
    gather(starting, timeout_s, "start")
    return Roles(rollout, reward, learner, reference, critic)


def start_training_group(
    group: WorkerGroup[Any], config: LearnerConfig | CriticConfig, checkpoint: Path | None, part: str, timeout_s: float
) -> list[Any]:
    """Let the ranks of a training group meet and load; returns the calls under way."""
    ((address, port),) = gather([group.start_on(0, TrainingRole.address)], timeout_s, "start")
    rendezvous = Rendezvous(address, port, config.ranks, timeout_s)
    folder = str((checkpoint / part).absolute()) if checkpoint else None
    return list(group.start(TrainingRole.start, rendezvous, folder))


def weight_sync(job: RLJob, roles: Roles, prompts: PromptSet) -> WeightSync:
    """The run's weight sync, with the first prompt as its probe."""
    tolerance = SyncTolerance.of(job.model.dtype, job.weight_sync.logprob_tolerance)
    probe = prompts.prompts[0].token_ids[:PROBE_TOKENS]
    return WeightSync(
        roles.learner, roles.rollout, job.rollout.tensor_parallel, tolerance, job.weight_sync.timeout_s, probe
    )


def _resume_point(job: RLJob, directory: RunDirectory, resume: str) -> tuple[Path | None, Progress]:
    store = CheckpointStore(directory.checkpoints, job.checkpoint.keep, config_digest(job))
    start = Progress(0, 0, job.algorithm.kl_coefficient)
    if resume == "never":
        if directory.metrics.exists() or store.newest():
            raise CheckpointError(f"{directory.root} holds a run already: choose another `name`, or --resume auto")
        return None, start
    folder = store.newest() if resume == "auto" else Path(resume).absolute()
    if folder is None:
        return None, start
    progress = load_progress(folder, config_digest(job))
    newest = store.newest()
    if newest is not None and newest != folder:
        raise CheckpointError(
            f"{directory.root} has gone on to {newest.name}: going back would mix two histories; "
            "choose another `name`, or remove the newer checkpoints"
        )
    return folder, progress


def _trackers(inputs: RLInputs) -> list[Tracker]:
    done = inputs.progress.step
    return [
        JsonlTracker(inputs.directory.metrics, done),
        TensorBoardTracker(inputs.directory.tensorboard, done),
    ]
