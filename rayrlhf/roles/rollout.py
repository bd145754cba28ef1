"""The rollout worker: a Ray actor around one `GenerationEngine`. Generates, journals, receives weights."""

from __future__ import annotations

import asyncio
import math
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import ray

from rayrlhf.config.jobs import RLJob
from rayrlhf.data.durable import as_path
from rayrlhf.data.journal import Journal
from rayrlhf.data.segments import SegmentWriter
from rayrlhf.engines.generation_spec import GenerationSpec, Sampling
from rayrlhf.errors import CheckpointError
from rayrlhf.role_types import GenerationRequest, GroupInfo, HeldWeights, SyncAddress, SyncInfo, Vitals
from rayrlhf.runtime import processes
from rayrlhf.runtime.environment import quiet_process, set_variables, thread_count, vllm_variables
from rayrlhf.runtime.network import use_node_interface
from rayrlhf.types import Trajectory

if TYPE_CHECKING:
    from rayrlhf.engines.generation import GenerationEngine


@dataclass(frozen=True, slots=True)
class RolloutSetup:
    """What a rollout worker is made from. Without a `journal` directory nothing is recorded (evaluation)."""

    spec: GenerationSpec
    sampling: Sampling
    threads: int | None = None
    kv_cache_gib: int = 1
    journal: str | None = None
    engines_per_node: int = 1

    @classmethod
    def of(cls, job: RLJob, stop_token_ids: tuple[int, ...], journal: str, nodes: int) -> RolloutSetup:
        """The setup that an RL job asks for on a cluster of `nodes`."""
        config = job.rollout
        spec = GenerationSpec(
            model=job.model.path,
            dtype=job.model.dtype,
            max_model_length=job.data.max_prompt_tokens + config.max_tokens + 1,
            max_concurrent=config.max_concurrent,
            tensor_parallel=config.tensor_parallel,
            enforce_eager=config.enforce_eager,
            gpu_memory_share=config.gpu_memory_share,
            seed=job.seed,
        )
        sampling = Sampling(config.max_tokens, config.temperature, stop_token_ids)
        per_node = math.ceil(config.workers / nodes)
        return cls(spec, sampling, config.threads, config.kv_cache_gib, journal, per_node)


class RolloutRole:
    """See `RolloutWorker`. An asynchronous actor: calls run side by side on one event loop."""

    def __init__(self, setup: RolloutSetup, rank: int) -> None:
        processes.adopt()
        use_node_interface()
        spec = setup.spec
        threads = thread_count(setup.threads, setup.engines_per_node)
        set_variables(quiet_process(threads))
        set_variables(
            vllm_variables(
                threads, spec.tensor_parallel, setup.kv_cache_gib, rank % setup.engines_per_node, spec.enforce_eager
            )
        )
        self._sampling = setup.sampling
        self._journal = TrajectorySource(as_path(setup.journal), f"rollout-{rank}") if setup.journal else None
        self._proven = asyncio.Event()
        self._proven.set()
        self._engine = self._start_engine(spec)

    def _start_engine(self, spec: GenerationSpec) -> GenerationEngine:
        from rayrlhf.engines.generation import GenerationEngine

        return GenerationEngine(spec)

    async def vitals(self) -> Vitals:
        """Where this process is, and its memory with its engine's; raises when the engine is dead."""
        await self._engine.check()
        return processes.vitals()

    @ray.method(num_returns=2)
    async def generate(self, request: GenerationRequest) -> tuple[GroupInfo, list[Trajectory]]:
        """All samples of one prompt, each durable before anyone sees it; those in the journal are not made again."""
        known = await asyncio.to_thread(self._journal.known, request) if self._journal and request.look else {}
        try:
            async with asyncio.TaskGroup() as together:  # when one fails, the others end
                tasks = [together.create_task(self._sample(request, k, known)) for k in range(len(request.seeds))]
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
        trajectories = [task.result() for task in tasks]
        info = GroupInfo(
            group_id=request.group_id,
            trajectory_ids=tuple(t.id for t in trajectories),
            prompt_tokens=len(request.prompt.token_ids),
            response_tokens=tuple(len(t.completion.token_ids) for t in trajectories),
            oldest_version=min((v for t in trajectories for v in t.completion.policy_versions), default=-1),
        )
        return info, trajectories

    async def _sample(self, request: GenerationRequest, index: int, known: Mapping[str, Trajectory]) -> Trajectory:
        id_ = f"{request.group_id}-{index:03d}"
        if id_ in known:
            return known[id_]
        completion = await self._engine.complete(request.prompt, self._sampling, request.seeds[index])
        await self._proven.wait()
        trajectory = Trajectory(id_, request.group_id, index, request.prompt, completion)
        if self._journal:
            await self._journal.record(request.step, trajectory)
        return trajectory

    async def pause(self) -> None:
        """Freeze running requests and forget cached prefixes."""
        self._proven.clear()
        await self._engine.pause()

    async def resume(self) -> None:
        """Let them go on; what ends before `confirm` waits for it."""
        await self._engine.resume()

    async def confirm(self) -> None:
        """The weights are proven."""
        self._proven.set()

    async def join_transfer(self, where: SyncAddress, first_rank: int) -> None:
        """Meet the sender."""
        await self._engine.join_transfer({**asdict(where), "first_rank": first_rank})

    async def receive(self, version: int, info: SyncInfo) -> None:
        """Take one push."""
        specs = [(name, dtype, list(shape)) for name, dtype, shape in info.specs]
        update = {"specs": specs, "bucket_bytes": info.bucket_bytes, "timeout_s": info.timeout_s}
        await self._engine.receive(version, update)

    async def abort_transfer(self) -> None:
        """Let go of a push that failed; the next whole one makes the weights right again."""
        await self._engine.worker_call("abort_transfer")

    async def held(self) -> HeldWeights:
        """Evidence of what this worker computes with."""
        return HeldWeights(
            version=await self._engine.version(),
            digests=tuple(await self._engine.worker_call("received_digests")),
            deviations=tuple(await self._engine.worker_call("weight_deviations")),
        )

    async def probe(self, token_ids: tuple[int, ...]) -> list[float]:
        """log p(token t | < t) for t = 1, 2, … at temperature 1."""
        return await self._engine.logprobs(token_ids)


class TrajectorySource:
    """A worker's end of the journal: its own segments to write, and what is durable already."""

    def __init__(self, directory: Path, name: str) -> None:
        self._journal = Journal(directory)
        self._segments = SegmentWriter(directory, f"{name}-{uuid.uuid4().hex[:8]}")
        self._committed: tuple[int, dict[str, dict[str, Trajectory]]] | None = None

    def known(self, request: GenerationRequest) -> dict[str, Trajectory]:
        """The request's samples that are durable.

        Raises:
            CheckpointError: they answer another prompt than the request's.

        """
        mine = self._of_step(request.step).get(request.group_id, {})
        if any(t.prompt.token_ids != request.prompt.token_ids for t in mine.values()):
            raise CheckpointError(
                f"group {request.group_id} of the journal answers another prompt than {request.prompt.id}: "
                "data.prompts has changed since; bring it back, or choose another `name`"
            )
        return mine

    def _of_step(self, step: int) -> dict[str, dict[str, Trajectory]]:
        """What is durable of a step, by group; a committed step does not change, so it is read once for all groups."""
        if self._committed is not None and self._committed[0] == step:
            return self._committed[1]
        committed = self._journal.has(step)
        groups: dict[str, dict[str, Trajectory]] = {}
        for id_, trajectory in self._journal.read(step).items():
            groups.setdefault(trajectory.group_id, {})[id_] = trajectory
        if committed:
            self._committed = step, groups
        return groups

    async def record(self, step: int, trajectory: Trajectory) -> None:
        """Return when the trajectory is durable."""
        await asyncio.wrap_future(self._segments.append(step, trajectory))
