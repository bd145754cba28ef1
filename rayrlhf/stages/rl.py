"""`rayrlhf rl`: check everything, place the roles, run the loop, export the policy."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from rayrlhf.config.jobs import RLJob
from rayrlhf.data.durable import local_copy
from rayrlhf.data.journal import Journal
from rayrlhf.data.prompts import PromptSet, render_prompts
from rayrlhf.data.rows import read_prompts, read_texts
from rayrlhf.data.template import end_of_turn_ids
from rayrlhf.engines.model_files import require_weights
from rayrlhf.engines.models import (
    generation_eos,
    load_tokenizer,
    policy_shapes,
    require_length,
    require_reward_head,
    require_same_vocabulary,
    scalar_shapes,
)
from rayrlhf.engines.training_state import check_state
from rayrlhf.loop.census import Census
from rayrlhf.loop.checkpoint import CheckpointStore
from rayrlhf.loop.progress import Progress
from rayrlhf.loop.rlhf_loop import RLHFLoop
from rayrlhf.loop.roles import Roles, checkpoint_part, start_training
from rayrlhf.loop.saver import CheckpointSaver
from rayrlhf.loop.stream import RolloutPlan, RolloutStream
from rayrlhf.loop.supervisor import Supervisor
from rayrlhf.loop.watchdog import Watchdog
from rayrlhf.loop.workforce import Workforce
from rayrlhf.observability.display import Display
from rayrlhf.observability.events import EventLog
from rayrlhf.observability.timeline import Timeline
from rayrlhf.observability.trackers import JsonlTracker, Tracker, logged_steps, tensorboard_trackers
from rayrlhf.rewards.function import import_function
from rayrlhf.rewards.remote import RemoteService
from rayrlhf.roles.critic import CriticRole
from rayrlhf.roles.learner import LearnerRole
from rayrlhf.roles.reference import ReferenceRole
from rayrlhf.roles.reward import RewardRole
from rayrlhf.roles.rollout import RolloutRole, RolloutSetup
from rayrlhf.runtime.bundles import RoleBundle
from rayrlhf.runtime.cluster import Placement, check_feasible, connect
from rayrlhf.runtime.environment import require_safe_vllm
from rayrlhf.runtime.failures import FailurePolicy
from rayrlhf.runtime.faults import Fault, FaultInjector
from rayrlhf.runtime.interruption import Interruption
from rayrlhf.runtime.worker_group import create_group, gather
from rayrlhf.stages.bundles import role_bundles
from rayrlhf.stages.recording import recording
from rayrlhf.stages.resume import require_unchanged, resume_point
from rayrlhf.stages.reward_service import find_reward_service, remember_reward_service
from rayrlhf.stages.run_directory import RunDirectory
from rayrlhf.weight_sync.proof import SyncTolerance
from rayrlhf.weight_sync.push import WeightSync

PROBE_TOKENS = 64


@dataclass(frozen=True, slots=True)
class RLInputs:
    """What `prepare` found before anything was allocated."""

    prompts: PromptSet
    stop_token_ids: tuple[int, ...]
    directory: RunDirectory
    checkpoint: Path | None
    progress: Progress
    reward_service: RemoteService | None = None


def prepare(job: RLJob, resume: str = "auto") -> RLInputs:
    """Check model, reward, data and checkpoint; starts nothing and writes nothing."""
    require_safe_vllm()
    require_weights(job.model.path, job.model.digest)
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
    directory = RunDirectory.of(job)
    directory.require_reachable()
    logged_steps(directory.metrics)
    checkpoint, progress = resume_point(job, directory, prompts, resume)
    if checkpoint is not None:
        _check_state(job, checkpoint)
    ends = end_of_turn_ids(tokenizer, generation_eos(job.model.path))
    return RLInputs(prompts, ends, directory, checkpoint, progress, find_reward_service(job.reward, directory))


def _check_models(job: RLJob, tokenizer: PreTrainedTokenizerBase) -> None:
    """Everything that can be told from the files of the models, before any of them is loaded."""
    require_length(job.model.path, job.data.max_prompt_tokens + job.rollout.max_tokens)
    if job.reward.model is not None:
        require_reward_head(job.reward.model, "reward.model")
        load_tokenizer(job.reward.model)
    if job.has_reference and job.reference.model is not None:
        require_weights(job.reference.model)
        require_same_vocabulary(tokenizer, job.reference.model, "reference.model")
    critic = job.critic.model or job.reward.model
    if job.has_critic and critic is not None:
        require_reward_head(critic, "critic.model")
        require_same_vocabulary(tokenizer, critic, "critic.model (unset: reward.model)")


def _check_state(job: RLJob, checkpoint: Path) -> None:
    """The saved training state is that of the job's models."""
    with local_copy(checkpoint) as saved:
        check_state(saved / checkpoint_part("learner"), policy_shapes(job.model.path))
        if job.has_critic:
            critic = job.critic.model or job.reward.model or job.model.path
            check_state(saved / checkpoint_part("critic"), scalar_shapes(critic))


def run_rl(job: RLJob, resume: str = "auto") -> RunDirectory:
    """Run the job to its last step and export the policy; returns where everything is."""
    inputs = prepare(job, resume)
    connect(job.run.ray_address)
    bundles = role_bundles(job)
    check_feasible(bundles, autoscaling=job.run.autoscaling)
    with inputs.directory.occupied(job):
        require_unchanged(inputs.directory, inputs.checkpoint)
        Journal(inputs.directory.trajectories).sweep()
        remember_reward_service(inputs.reward_service, inputs.directory)
        _run(job, inputs, bundles)
    return inputs.directory


def _run(job: RLJob, inputs: RLInputs, bundles: list[RoleBundle]) -> None:
    """Place the roles, start them, and run the loop over them."""
    display = Display(job.run.steps, job.run.sample_every_steps)
    events = EventLog(inputs.directory.events, display.say)
    timeline = Timeline(watchers=[display.phase])
    placement = Placement(bundles)
    interruption = Interruption(job.recovery.grace_s)
    try:
        with recording(inputs.directory, events, inputs.progress.step, job.run.steps), interruption.listening():
            with timeline.span("start", inputs.progress.step + 1):
                placement.wait(job.run.start_timeout_s)
                roles = start_roles(job, inputs, placement)
            try:
                build_loop(job, inputs, roles, RunWatch(display, timeline, events, interruption)).run()
            finally:
                timeline.write(inputs.directory.timeline)
    finally:
        display.close()
        placement.release()


def start_roles(job: RLJob, inputs: RLInputs, placement: Placement) -> Roles:
    """Create every actor, then wait for all of them together."""
    journal, aside = str(inputs.directory.trajectories), str(inputs.directory.set_aside)
    setup = RolloutSetup.of(job, inputs.stop_token_ids, journal, placement.count_nodes("rollout"))
    reference = critic = None
    learner = create_group(placement, "learner", LearnerRole, job.learner.ranks, job, journal, aside)
    if job.has_critic:
        critic = create_group(placement, "critic", CriticRole, job.critic.ranks, job, aside)
    rollout = create_group(placement, "rollout", RolloutRole, job.rollout.workers, setup)
    reward = create_group(placement, "reward", RewardRole, job.reward.workers, job, inputs.reward_service)
    if job.has_reference:
        reference = create_group(placement, "reference", ReferenceRole, job.reference.workers, job)
    roles = Roles(rollout, reward, learner, reference, critic)
    start_training(roles.training, inputs.checkpoint, job.run.start_timeout_s)
    others = [group for group in roles.all if group not in roles.training]
    gather([call for group in others for call in group.start_ready()], job.run.start_timeout_s, "start")
    return roles


@dataclass(frozen=True, slots=True)
class RunWatch:
    """Who hears of a run's progress, and who may end it."""

    display: Display
    timeline: Timeline
    events: EventLog
    interruption: Interruption


def build_loop(job: RLJob, inputs: RLInputs, roles: Roles, watch: RunWatch) -> RLHFLoop:
    """The loop over roles that are up."""
    directory, recovery = inputs.directory, job.recovery
    journal = Journal(directory.trajectories)
    plan = RolloutPlan(inputs.prompts, job.rollout, job.seed, job.run.steps, recovery.max_bad_prompts)
    store = CheckpointStore(
        directory.checkpoints, job.checkpoint.keep, job.model_dump(mode="json"), inputs.prompts.digest
    )
    census = Census(roles)
    watch.timeline.watch(watch.events.under_way)
    watch.timeline.watch(
        FaultInjector.from_environment(directory.root, census.pid_of, partial(_note, watch.events)).phase
    )
    workforce = Workforce(
        roles,
        FailurePolicy(recovery.max_failures, recovery.backoff_s),
        watch.events,
        census,
        job.run.start_timeout_s,
        directory.workers,
    )
    supervisor = Supervisor(
        roles,
        weight_sync(job, roles, inputs.prompts),
        workforce,
        watch.interruption,
        Watchdog(census, directory.stacks, recovery.stall_s, watch.events),
    )
    return RLHFLoop(
        job,
        roles,
        RolloutStream(roles.rollout, plan, journal),
        supervisor,
        store,
        CheckpointSaver(roles, store, watch.events),
        [*_trackers(directory, journal), watch.display],
        watch.timeline,
        inputs.progress,
        directory.model,
    )


def _note(events: EventLog, fault: Fault) -> None:
    message = f"on purpose: {fault.action} {fault.role} {fault.rank} in {fault.phase}"
    events.note("fault", message, role=fault.role, rank=fault.rank, phase=fault.phase, action=fault.action)


def weight_sync(job: RLJob, roles: Roles, prompts: PromptSet) -> WeightSync:
    """The run's weight sync, with the first prompt as its probe."""
    tolerance = SyncTolerance.of(job.model.dtype, job.weight_sync.logprob_tolerance)
    probe = prompts.prompts[0].token_ids[:PROBE_TOKENS]
    return WeightSync(
        roles.learner, roles.rollout, job.rollout.tensor_parallel, tolerance, job.weight_sync.timeout_s, probe
    )


def _trackers(directory: RunDirectory, journal: Journal) -> list[Tracker]:
    """Rows of committed steps stay; what comes after them is written again."""
    rows = JsonlTracker(directory.metrics, max(journal.committed_steps(), default=0))
    return [rows, *tensorboard_trackers(directory.tensorboard, rows.last_step)]
