"""The rollout worker: a Ray actor around one `GenerationEngine`. Generates, journals, receives weights."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path

import ray

from rayrlhf.config.jobs import RLJob
from rayrlhf.data.journal import SegmentWriter
from rayrlhf.engines.generation_spec import GenerationSpec, Sampling
from rayrlhf.role_types import GenerationRequest, GroupInfo, HeldWeights, SyncAddress, SyncInfo
from rayrlhf.runtime.environment import quiet_process, set_variables, thread_count, vllm_variables
from rayrlhf.types import Trajectory


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
    """See `RolloutWorker`."""

    def __init__(self, setup: RolloutSetup, rank: int) -> None:
        spec = setup.spec
        threads = thread_count(setup.threads, setup.engines_per_node)
        set_variables(quiet_process(threads))
        set_variables(
            vllm_variables(
                threads, spec.tensor_parallel, setup.kv_cache_gib, rank % setup.engines_per_node, spec.enforce_eager
            )
        )
        from rayrlhf.engines.generation import GenerationEngine

        self._sampling = setup.sampling
        self._segments = SegmentWriter(Path(setup.journal), f"rollout-{rank}") if setup.journal else None
        self._engine = GenerationEngine(setup.spec)

    @ray.method(num_returns=2)
    async def generate(self, request: GenerationRequest) -> tuple[GroupInfo, list[Trajectory]]:
        """All samples of one prompt; durable before anyone sees them."""
        completions = await self._engine.generate(request.prompt, self._sampling, request.seeds)
        trajectories = [
            Trajectory(f"{request.group_id}-{i:03d}", request.group_id, i, request.prompt, completion)
            for i, completion in enumerate(completions)
        ]
        if self._segments:
            self._segments.append(request.step, trajectories)
        info = GroupInfo(
            group_id=request.group_id,
            trajectory_ids=tuple(t.id for t in trajectories),
            prompt_tokens=len(request.prompt.token_ids),
            response_tokens=tuple(len(c.token_ids) for c in completions),
            oldest_version=min((v for c in completions for v in c.policy_versions), default=-1),
        )
        return info, trajectories

    async def pause(self) -> None:
        """Freeze running requests and forget cached prefixes."""
        await self._engine.pause()

    async def resume(self) -> None:
        """Let requests go on."""
        await self._engine.resume()

    async def join_transfer(self, where: SyncAddress, first_rank: int) -> None:
        """Meet the sender."""
        await self._engine.join_transfer({**asdict(where), "first_rank": first_rank})

    async def receive(self, version: int, info: SyncInfo) -> None:
        """Take one push."""
        specs = [(name, dtype, list(shape)) for name, dtype, shape in info.specs]
        await self._engine.receive(version, {"specs": specs, "bucket_bytes": info.bucket_bytes})

    async def held(self, probe: tuple[int, ...]) -> HeldWeights:
        """Evidence of what this worker computes with."""
        return HeldWeights(
            version=await self._engine.version(),
            digests=tuple(await self._engine.worker_call("received_digests")),
            deviations=tuple(await self._engine.worker_call("weight_deviations")),
            probe_logprobs=tuple(await self._engine.logprobs(probe)),
        )
