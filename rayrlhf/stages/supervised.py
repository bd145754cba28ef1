"""What SFT and reward modelling share: epochs of optimizer steps on Ray Train, with the one training engine inside.

    rows ──▶ each step's items ──▶ this rank's micro-batches ──▶ objective ──▶ step … ──▶ held-out metrics ──▶ export

Ray Train starts the ranks, joins them and starts them again after a failure; they go on from the newest complete
checkpoint. Everything is a function of config and seed, so a restarted stage ends where an undisturbed one does.
"""

from __future__ import annotations

import json
import math
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray.exceptions import RayError
from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
from ray.train.torch import TorchTrainer

from rayrlhf.config.jobs import SupervisedJob
from rayrlhf.config.load import load_job
from rayrlhf.data.durable import (
    is_file,
    is_local,
    local_copy,
    read_bytes,
    remove_file,
    write_durably,
)
from rayrlhf.data.stores import arrow_filesystem, place_of
from rayrlhf.engines.training_state import check_state
from rayrlhf.errors import CheckpointError, DataError, NumericalError, RoleFailedError
from rayrlhf.loop.checkpoint import verify
from rayrlhf.observability.display import Display
from rayrlhf.observability.events import EventLog
from rayrlhf.observability.trackers import following, logged_steps
from rayrlhf.runtime.cluster import check_feasible, connect
from rayrlhf.runtime.interruption import Interruption, raise_if_due
from rayrlhf.stages.bundles import role_bundles
from rayrlhf.stages.rank_network import NodeTorchConfig
from rayrlhf.stages.recording import recording
from rayrlhf.stages.resume import require_same_config, resume_path
from rayrlhf.stages.run_directory import RunDirectory
from rayrlhf.stages.supervised_rank import PART, checkpoint_store, train_rank
from rayrlhf.stages.supervised_task import MakeTask, SupervisedTask, count_steps


@dataclass(frozen=True, slots=True)
class SupervisedResult:
    """Where the stage's run is and what it measured at its end."""

    directory: RunDirectory
    metrics: dict[str, float]


def run_supervised(job: SupervisedJob, make_task: MakeTask, resume: str = "auto") -> SupervisedResult:
    """Run the stage to its end; `make_task(job)` is called here, to check the data, and in every rank."""
    task = make_task(job)
    if len(task.items) < job.learner.ranks:
        raise DataError(f"{job.name}: {len(task.items)} usable rows are fewer than learner.ranks = {job.learner.ranks}")
    directory = RunDirectory.of(job)
    directory.require_reachable()
    if finished := _finished(job, directory, resume):
        return finished
    done = resumable_step(task, job, directory, resume)
    connect(job.run.ray_address)
    check_feasible(role_bundles(job), autoscaling=job.run.autoscaling)
    with directory.occupied(job):
        _run(task, job, make_task, directory, done)
    return SupervisedResult(directory, json.loads(read_bytes(directory.result)))


def _run(
    task: SupervisedTask[Any], job: SupervisedJob, make_task: MakeTask, directory: RunDirectory, done: int
) -> None:
    """Train from step `done` on, to the end or until somebody asks to stop."""
    total_steps = count_steps(task, job)
    remove_file(directory.stop)
    remove_file(directory.failed)
    interruption = Interruption(job.recovery.grace_s)
    events, show = EventLog(directory.events), Display(total_steps).log_supervised
    with recording(directory, events, done, total_steps), interruption.listening():
        with following(directory.metrics, show, done):
            _fit(_trainer(job, make_task, directory), directory, interruption)
        if not is_file(directory.result):
            if is_file(directory.failed):
                raise NumericalError(read_bytes(directory.failed).decode())
            step = resumable_step(task, job, directory, "auto")
            raise interruption.error(f"step {step} is saved, go on with --resume auto")


def resumable_step(task: SupervisedTask[Any], job: SupervisedJob, directory: RunDirectory, resume: str) -> int:
    """The step of the newest checkpoint, which has to be whole and of this job; 0 where there is none."""
    logged_steps(directory.metrics)
    newest = checkpoint_store(job, directory).newest()
    if resume not in ("auto", "never") and newest != resume_path(resume):
        raise CheckpointError(f"--resume {resume}: {job.name} goes on from its newest checkpoint ({newest}): use auto")
    if newest is None:
        return 0
    if resume == "never":
        raise CheckpointError(f"{directory.root} holds a run already: choose another `name`, or --resume auto")
    manifest = verify(newest)
    require_same_config(manifest.config, job, newest)
    with local_copy(newest / PART) as saved:
        check_state(saved, task.shapes())
    return manifest.progress.step


def _finished(job: SupervisedJob, directory: RunDirectory, resume: str) -> SupervisedResult | None:
    """The result that is there already. A stage that was cut off has none."""
    if not is_file(directory.result) or not is_file(directory.config):
        return None
    kind: Any = type(job)
    if resume == "never":
        raise CheckpointError(f"{directory.root} holds a result already: choose another `name`, or remove it")
    require_same_config(load_job(kind, directory.config).model_dump(mode="json"), job, directory.root)
    return SupervisedResult(directory, json.loads(read_bytes(directory.result)))


def _trainer(job: SupervisedJob, make_task: MakeTask, directory: RunDirectory) -> TorchTrainer:
    learner = job.learner
    resources = {"CPU": learner.cpus} | ({"GPU": learner.gpus} if learner.gpus else {})
    return TorchTrainer(
        train_rank,
        train_loop_config={"job": job, "make_task": make_task, "directory": directory},
        scaling_config=ScalingConfig(
            num_workers=learner.ranks,
            use_gpu=learner.gpus > 0,
            resources_per_worker=resources,
            placement_strategy="SPREAD" if learner.spread else "PACK",
            label_selector=dict(learner.node_labels) or None,
        ),
        torch_config=NodeTorchConfig(
            backend="cpu:gloo,cuda:nccl" if learner.gpus else "gloo", timeout_s=math.ceil(job.run.timeout_s)
        ),
        run_config=RunConfig(
            name=job.name,
            failure_config=FailureConfig(max_failures=job.recovery.max_failures),
            **_storage(directory.root / "ray_train"),
        ),
    )


def _storage(folder: Path) -> dict[str, Any]:
    """Where Ray Train keeps its own state, which decides nothing here: checkpoints and result do."""
    if is_local(folder):
        return {"storage_path": str(folder)}
    return {"storage_path": place_of(folder), "storage_filesystem": arrow_filesystem(folder)}


def _fit(trainer: TorchTrainer, directory: RunDirectory, interruption: Interruption) -> None:
    """Train to the end, or until the ranks have saved because somebody asked to stop.

    In a thread, because Ray Train would take Ctrl-C for itself, and end the ranks where they are.
    """
    failed: list[Exception] = []

    def fit() -> None:
        try:
            trainer.fit()
        except (TrainingFailedError, RayError) as error:
            failed.append(error)

    thread = threading.Thread(target=fit, daemon=True)
    interruption.wait_for_saves()
    thread.start()
    asked = False
    while thread.is_alive():
        thread.join(0.2)
        raise_if_due()
        if interruption.requested and not asked:
            write_durably(directory.stop, b"")
            asked = True
    if failed:
        cause = str(failed[0]).strip().splitlines()[-1]
        raise RoleFailedError(f"{directory.root.name}: training failed: {cause}") from failed[0]
