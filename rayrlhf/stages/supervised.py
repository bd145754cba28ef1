"""What SFT and reward modelling share: epochs of optimizer steps on Ray Train, with the one training engine inside.

    rows ──▶ each step's items ──▶ this rank's micro-batches ──▶ objective ──▶ step … ──▶ held-out metrics ──▶ export

Ray Train starts the ranks, joins them and starts them again after a failure; everything is a function of config and
seed, so a restarted stage ends where an undisturbed one does.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import nn

from rayrlhf.algorithms.objectives import LossTerms
from rayrlhf.config.jobs import RewardJob, SFTJob
from rayrlhf.engines.training import TrainingEngine
from rayrlhf.errors import RoleFailedError
from rayrlhf.observability.trackers import JsonlTracker
from rayrlhf.runtime.cluster import RoleBundle, check_feasible, connect
from rayrlhf.runtime.environment import quiet_process, set_variables, thread_count
from rayrlhf.stages.run_directory import RunDirectory

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


@dataclass(frozen=True, slots=True)
class SupervisedResult:
    """Where the stage's run is and what it measured at its end."""

    directory: RunDirectory
    metrics: dict[str, float]


def run_supervised(job: SFTJob | RewardJob, make_task: Callable[[Any], SupervisedTask[Any]]) -> SupervisedResult:
    """Run the stage to its end; `make_task(job)` is called in every rank."""
    import json

    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    connect(job.run.ray_address)
    learner = job.learner
    check_feasible([RoleBundle("learner", learner.ranks, learner.cpus, learner.gpus)])
    directory = RunDirectory(Path(job.run.directory).absolute() / job.name)
    directory.create(job)
    resources = {"CPU": learner.cpus} | ({"GPU": learner.gpus} if learner.gpus else {})
    trainer = TorchTrainer(
        _train_rank,
        train_loop_config={"job": job, "make_task": make_task, "directory": directory},
        scaling_config=ScalingConfig(
            num_workers=learner.ranks, use_gpu=learner.gpus > 0, resources_per_worker=resources
        ),
        torch_config=TorchConfig(backend="nccl" if learner.gpus else "gloo"),
        run_config=RunConfig(
            name=job.name, storage_path=str(directory.root / "ray_train"), failure_config=FailureConfig(max_failures=2)
        ),
    )
    try:
        trainer.fit()
    except Exception as error:
        raise RoleFailedError(f"{job.name}: training failed: {str(error).strip().splitlines()[-1]}") from error
    final = json.loads((directory.root / "result.json").read_text(encoding="utf-8"))
    return SupervisedResult(directory, final)


def _train_rank(config: dict[str, Any]) -> None:
    """What every Ray Train worker runs."""
    import json

    job, directory = config["job"], config["directory"]
    threads = thread_count(job.learner.threads, job.learner.ranks)
    set_variables(quiet_process(threads))
    torch.set_num_threads(threads)
    torch.manual_seed(job.seed)
    task = config["make_task"](job)
    steps = math.ceil(len(task.items) / job.run.batch_rows) * job.run.epochs
    engine = TrainingEngine(task.load(), job.learner, job.model.dtype, steps)
    tracker = JsonlTracker(directory.metrics) if engine.rank == 0 else None
    for step, items in enumerate(optimizer_steps(task.items, job.run.batch_rows, job.run.epochs, job.seed), start=1):
        metrics = train_step(task, engine, items)
        if tracker:
            tracker.log(step, metrics, [])
    final = task.evaluate(engine)
    task.export(engine, directory.model)
    if engine.rank == 0:
        (directory.root / "result.json").write_text(json.dumps(final, indent=1), encoding="utf-8")


def train_step(task: SupervisedTask[I], engine: TrainingEngine, items: Sequence[I]) -> dict[str, float]:
    """One optimizer step over `items`, shared among the ranks."""
    from rayrlhf.data.batching import split_among_ranks

    share = split_among_ranks([task.length(item) for item in items], engine.world_size)[engine.rank]
    batches = task.batches([items[i] for i in share], engine)
    metrics = engine.accumulate(batches, task.objective(items))
    return metrics | {f"training/{name}": value for name, value in engine.step().items()}


def optimizer_steps(items: Sequence[I], batch_rows: int, epochs: int, seed: int) -> list[list[I]]:
    """The items of every optimizer step: a seeded permutation an epoch, the last step of an epoch may be smaller."""
    steps: list[list[I]] = []
    for epoch in range(epochs):
        order = list(range(len(items)))
        random.Random(f"epoch-{seed}-{epoch}").shuffle(order)
        steps += [[items[i] for i in order[k : k + batch_rows]] for k in range(0, len(order), batch_rows)]
    return steps


def rank_share(items: Sequence[I], engine: TrainingEngine) -> list[I]:
    """This rank's held-out items; at least one, so that every rank can take part in collectives."""
    share = list(items[engine.rank :: engine.world_size])
    return share or list(items[:1])


def gather_objects(value: Any, engine: TrainingEngine) -> list[Any]:
    """Every rank's value, on every rank."""
    import torch.distributed as dist

    gathered: list[Any] = [None] * engine.world_size
    dist.all_gather_object(gathered, value)
    return gathered
