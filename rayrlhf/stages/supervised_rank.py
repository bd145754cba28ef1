"""What every Ray Train worker of a supervised stage runs.

newest checkpoint ──▶ step ──▶ row ──▶ checkpoint where due, or asked to stop ──▶ … ──▶ held-out metrics ──▶ export
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from rayrlhf.config.jobs import SupervisedJob
from rayrlhf.data.append_log import AppendLog
from rayrlhf.data.batching import split_among_ranks
from rayrlhf.data.durable import digest_file, is_file, local_copy, local_folder, write_durably
from rayrlhf.engines.training import TrainingEngine
from rayrlhf.engines.training_state import load_module_weights, load_optimizer_state, snapshot
from rayrlhf.loop.checkpoint import CheckpointStore, verify
from rayrlhf.loop.progress import Progress
from rayrlhf.observability.trackers import JsonlTracker, Tracker, tensorboard_trackers
from rayrlhf.role_types import SavedFile
from rayrlhf.runtime import processes
from rayrlhf.runtime.environment import quiet_process, set_variables, thread_count
from rayrlhf.stages.run_directory import RunDirectory
from rayrlhf.stages.supervised_task import I, SupervisedTask, count_steps, gather_objects, optimizer_steps

PART = "model"
"""The folder of the training state inside a checkpoint."""
SKIPPED = "training/skipped_updates"
REMOTE_DELAY_S = 5.0
"""Steps can be shorter than a request to a store, so rows share one; each checkpoint has them all."""


def checkpoint_store(job: SupervisedJob, directory: RunDirectory) -> CheckpointStore:
    """The stage's checkpoints."""
    return CheckpointStore(directory.checkpoints, job.checkpoint.keep, job.model_dump(mode="json"))


def train_rank(config: dict[str, Any]) -> None:
    """What every Ray Train worker runs."""
    job, directory = config["job"], config["directory"]
    processes.adopt()
    threads = thread_count(job.learner.threads, job.learner.ranks)
    set_variables(quiet_process(threads))
    torch.set_num_threads(threads)
    torch.manual_seed(job.seed)
    task, store = config["make_task"](job), checkpoint_store(job, directory)
    engine, done = _load(task, job, _newest_whole(store))
    rows = [JsonlTracker(directory.metrics, done, REMOTE_DELAY_S)] if engine.rank == 0 else []
    trackers: list[Tracker] = [*rows, *(tensorboard_trackers(directory.tensorboard, done) if rows else [])]
    steps, bad_steps = optimizer_steps(task.items, job), _bad_steps(directory, done)
    for step, items in list(enumerate(steps, start=1))[done:]:
        metrics = train_step(task, engine, items)
        for tracker in trackers:
            tracker.log(step, metrics, [])
        bad_steps += metrics[SKIPPED] > 0
        if bad_steps > job.recovery.max_bad_steps:
            return _give_up(directory, engine, step, bad_steps)
        if step == len(steps):
            break
        stop = any(gather_objects(engine.rank == 0 and is_file(directory.stop)))
        if stop or step % job.checkpoint.every_steps == 0:
            _flush(rows)  # a stage that goes on from a checkpoint has the rows of its steps
            _save(engine, store, step)
        if stop:
            return None
    _flush(rows)
    final = task.evaluate(engine)
    task.export(engine, directory.model)
    if engine.rank == 0:
        write_durably(directory.result, json.dumps(final, indent=1).encode())
    return None


def _newest_whole(store: CheckpointStore) -> Path | None:
    """The checkpoint to go on from, the same on all ranks; rank 0 sets damaged ones aside."""
    found = store.newest_whole(print) if dist.get_rank() == 0 else None
    chosen: Path | None = gather_objects(found)[0]
    return chosen


def _bad_steps(directory: RunDirectory, done: int) -> int:
    """How many of the steps behind the checkpoint were not applied."""
    rows = (json.loads(line) for line in AppendLog(directory.metrics).lines())
    return sum(row["step"] <= done and (row.get(SKIPPED) or 0) > 0 for row in rows)


def _give_up(directory: RunDirectory, engine: TrainingEngine, step: int, bad_steps: int) -> None:
    """Too many bad steps: end as if all were well, because Ray Train would start again what raises."""
    if engine.rank == 0:
        message = (
            f"step {step}: NaN or infinite loss or gradient, as in {bad_steps - 1} steps before; none was applied. "
            f"More than recovery.max_bad_steps = {bad_steps - 1} steps were like this"
        )
        write_durably(directory.failed, message.encode())


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
    folder = gather_objects(folder)[0]
    with local_folder(folder / PART) as local:
        file = snapshot(engine).write(local)
        written = SavedFile(file.name, *digest_file(file))
    files = gather_objects(written)
    if engine.rank == 0:
        store.complete(folder, Progress(step, step, 0.0), {f"{PART}/{saved.name}": saved for saved in files})
        store.rotate()
    gather_objects(None)  # nobody goes on before it is complete


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
