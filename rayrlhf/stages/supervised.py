"""What SFT and reward modelling share: epochs of optimizer steps on Ray Train, with the one training engine inside.

    rows ──▶ each step's items ──▶ this rank's micro-batches ──▶ objective ──▶ step … ──▶ held-out metrics ──▶ export

Ray Train starts the ranks, joins them and starts them again after a failure; they go on from the newest complete
checkpoint. Everything is a function of config and seed, so a restarted stage ends where an undisturbed one does.
"""

from __future__ import annotations

import json
import math
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
from ray.train.torch import TorchConfig, TorchTrainer
from torch import nn

from rayrlhf.algorithms.objectives import LossTerms
from rayrlhf.config.jobs import SupervisedJob
from rayrlhf.config.load import load_job
from rayrlhf.data.batching import split_among_ranks
from rayrlhf.data.durable import (
    digest_file,
    is_file,
    is_local,
    local_copy,
    local_folder,
    read_bytes,
    remove_file,
    write_durably,
)
from rayrlhf.data.stores import arrow_filesystem, place_of
from rayrlhf.engines.training import TrainingEngine
from rayrlhf.engines.training_state import check_state, load_module_weights, load_optimizer_state, snapshot
from rayrlhf.errors import CheckpointError, DataError, RoleFailedError
from rayrlhf.loop.checkpoint import CheckpointStore, verify
from rayrlhf.loop.progress import Progress
from rayrlhf.observability.display import Display
from rayrlhf.observability.events import EventLog
from rayrlhf.observability.trackers import JsonlTracker, Tracker, following, logged_steps, tensorboard_trackers
from rayrlhf.role_types import SavedFile
from rayrlhf.runtime import processes
from rayrlhf.runtime.cluster import RoleBundle, check_feasible, connect
from rayrlhf.runtime.environment import quiet_process, set_variables, thread_count
from rayrlhf.runtime.interruption import Interruption, raise_if_due
from rayrlhf.stages.recording import recording
from rayrlhf.stages.resume import require_same_config, resume_path
from rayrlhf.stages.run_directory import RunDirectory

PART = "model"
"""The folder of the training state inside a checkpoint."""
REMOTE_DELAY_S = 5.0
"""Steps can be shorter than a request to a store, so rows share one; each checkpoint has them all."""
I = TypeVar("I")  # noqa: E741 (an item: a demonstration or a ranking, tokenised)


class SupervisedTask(Protocol[I]):
    """What is learned. An item is what one row became; it is never split between micro-batches."""

    @property
    def items(self) -> Sequence[I]:
        """What is learned from."""
        ...

    @property
    def held_out(self) -> Sequence[I]:
        """What is only measured."""
        ...

    def load(self) -> nn.Module:
        """The module to train."""
        ...

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The parameters of what `load` gives."""
        ...

    def length(self, item: I) -> int:
        """Padded tokens that the item needs on its own."""
        ...

    def batches(self, items: Sequence[I], engine: TrainingEngine) -> list[Any]:
        """Micro-batches of the items, on the engine's device."""
        ...

    def objective(self, step_items: Sequence[I]) -> Callable[[nn.Module, Any], LossTerms]:
        """The loss, normalised by all items of an optimizer step."""
        ...

    def evaluate(self, engine: TrainingEngine) -> dict[str, float]:
        """Metrics of the held-out items; a collective."""
        ...

    def export(self, engine: TrainingEngine, folder: Path) -> None:
        """Write the model; a collective."""
        ...


MakeTask = Callable[[Any], SupervisedTask[Any]]


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
    learner = job.learner
    check_feasible([RoleBundle("learner", learner.ranks, learner.cpus, learner.gpus)])
    with directory.occupied(job):
        _run(task, job, make_task, directory, done)
    return SupervisedResult(directory, json.loads(read_bytes(directory.result)))


def _run(
    task: SupervisedTask[Any], job: SupervisedJob, make_task: MakeTask, directory: RunDirectory, done: int
) -> None:
    """Train from step `done` on, to the end or until somebody asks to stop."""
    total_steps = count_steps(task, job)
    remove_file(directory.stop)
    interruption = Interruption(job.run.grace_s)
    events, show = EventLog(directory.events), Display(total_steps).log_supervised
    with recording(directory, events, done, total_steps), interruption.listening():
        with following(directory.metrics, show, done):
            _fit(_trainer(job, make_task, directory), directory, interruption)
        if not is_file(directory.result):
            remove_file(directory.stop)
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
    check_state(newest / PART, task.shapes())
    return manifest.progress.step


def checkpoint_store(job: SupervisedJob, directory: RunDirectory) -> CheckpointStore:
    """The stage's checkpoints."""
    return CheckpointStore(directory.checkpoints, job.checkpoint.keep, job.model_dump(mode="json"))


def count_steps(task: SupervisedTask[Any], job: SupervisedJob) -> int:
    """Optimizer steps of the stage."""
    return len(optimizer_steps(task.items, job))


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
        _train_rank,
        train_loop_config={"job": job, "make_task": make_task, "directory": directory},
        scaling_config=ScalingConfig(
            num_workers=learner.ranks, use_gpu=learner.gpus > 0, resources_per_worker=resources
        ),
        torch_config=TorchConfig(
            backend="cpu:gloo,cuda:nccl" if learner.gpus else "gloo", timeout_s=math.ceil(job.run.timeout_s)
        ),
        run_config=RunConfig(
            name=job.name, failure_config=FailureConfig(max_failures=2), **_storage(directory.root / "ray_train")
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
        except TrainingFailedError as error:
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


def _train_rank(config: dict[str, Any]) -> None:
    """What every Ray Train worker runs."""
    job, directory = config["job"], config["directory"]
    processes.adopt()
    threads = thread_count(job.learner.threads, job.learner.ranks)
    set_variables(quiet_process(threads))
    torch.set_num_threads(threads)
    torch.manual_seed(job.seed)
    task, store = config["make_task"](job), checkpoint_store(job, directory)
    engine, done = _load(task, job, store.newest())
    rows = [JsonlTracker(directory.metrics, done, REMOTE_DELAY_S)] if engine.rank == 0 else []
    trackers: list[Tracker] = [*rows, *(tensorboard_trackers(directory.tensorboard, done) if rows else [])]
    steps = optimizer_steps(task.items, job)
    for step, items in list(enumerate(steps, start=1))[done:]:
        metrics = train_step(task, engine, items)
        for tracker in trackers:
            tracker.log(step, metrics, [])
        stop = any(gather_objects(engine.rank == 0 and is_file(directory.stop), engine))
        if (stop or step % job.checkpoint.every_steps == 0) and step < len(steps):
            _flush(rows)  # a stage that goes on from a checkpoint has the rows of its steps
            _save(engine, store, step)
        if stop:
            return
    _flush(rows)
    final = task.evaluate(engine)
    task.export(engine, directory.model)
    if engine.rank == 0:
        write_durably(directory.result, json.dumps(final, indent=1).encode())


def _flush(rows: Sequence[JsonlTracker]) -> None:
    for log in rows:
        log.flush()


def _load(task: SupervisedTask[I], job: SupervisedJob, checkpoint: Path | None) -> tuple[TrainingEngine, int]:
    """The engine and the steps it has behind it. No checkpoint is being written yet: all ranks see the same newest."""
    module = task.load()
    if checkpoint is None:
        return TrainingEngine(module, job.learner, job.model.dtype, count_steps(task, job)), 0
    manifest = verify(checkpoint)
    with local_copy(checkpoint / PART) as saved:
        load_module_weights(module, saved)
        engine = TrainingEngine(module, job.learner, job.model.dtype, count_steps(task, job))
        load_optimizer_state(engine, saved)
    return engine, manifest.progress.step


def _save(engine: TrainingEngine, store: CheckpointStore, step: int) -> None:
    """A checkpoint after `step`; all ranks write their shards, rank 0 makes it complete."""
    folder = store.begin(step) if engine.rank == 0 else None
    folder = gather_objects(folder, engine)[0]
    with local_folder(folder / PART) as local:
        file = snapshot(engine).write(local)
        written = SavedFile(file.name, *digest_file(file))
    files = gather_objects(written, engine)
    if engine.rank == 0:
        store.complete(folder, Progress(step, step, 0.0), {f"{PART}/{saved.name}": saved for saved in files})
    gather_objects(None, engine)  # nobody goes on before it is complete


def train_step(task: SupervisedTask[I], engine: TrainingEngine, items: Sequence[I]) -> dict[str, float]:
    """One optimizer step over `items`, shared among the ranks."""
    started = time.monotonic()
    share = split_among_ranks([task.length(item) for item in items], engine.world_size)[engine.rank]
    batches = task.batches([items[i] for i in share], engine)
    metrics = engine.accumulate(batches, task.objective(items))
    metrics |= {f"training/{name}": value for name, value in engine.step().items()}
    elapsed_s = time.monotonic() - started
    tokens = sum(task.length(item) for item in items)
    return metrics | {"time/step_s": elapsed_s, "training/tokens_per_s": tokens / elapsed_s}


def optimizer_steps(items: Sequence[I], job: SupervisedJob) -> list[list[I]]:
    """The items of every optimizer step: a seeded permutation an epoch.

    The last step of an epoch may be smaller, but not than the number of ranks: it is then part of the one before.
    """
    size, ranks = job.run.batch_rows, job.learner.ranks
    steps: list[list[I]] = []
    for epoch in range(job.run.epochs):
        order = list(range(len(items)))
        random.Random(f"epoch-{job.seed}-{epoch}").shuffle(order)
        starts = list(range(0, len(order), size))
        if len(starts) > 1 and len(order) - starts[-1] < ranks:
            starts.pop()
        steps += [[items[i] for i in order[a:b]] for a, b in pairwise([*starts, len(order)])]
    return steps


def rank_share(items: Sequence[I], engine: TrainingEngine) -> list[I]:
    """This rank's held-out items; all of them on every rank where there are too few to share."""
    return list(items[engine.rank :: engine.world_size] if len(items) >= engine.world_size else items)


def gather_objects(value: Any, engine: TrainingEngine) -> list[Any]:
    """Every rank's value, on every rank."""
    import torch.distributed as dist

    gathered: list[Any] = [None] * engine.world_size
    dist.all_gather_object(gathered, value)
    return gathered
