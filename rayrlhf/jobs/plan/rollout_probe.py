"""Measures generation and weight sync on this machine: random models of a few shapes in the real vLLM engine.

    python -m rayrlhf.jobs.plan.rollout_probe '{"threads": 2, "dtype": "float32", "layers": 2, "hidden": 64, …}'

A process of its own for each shape. Prints one JSON line: points of generation (several batch sizes and answer
lengths), points of weight sync, and the memory of the engine's processes.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rayrlhf.jobs.plan import work
from rayrlhf.jobs.plan.model_shape import ModelShape

SHAPES = ((2, 64, 2048), (12, 128, 2048), (2, 512, 8192), (2, 576, 49152))
LOADS = ((1, 24, 16), (8, 24, 32), (32, 24, 32), (32, 24, 4), (8, 160, 4))
"""Requests, prompt tokens, answer tokens."""
MAX_LENGTH = 256


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """What one process measures."""

    threads: int
    dtype: str
    layers: int
    hidden: int
    vocabulary: int


def main(text: str) -> None:
    """Measure and print."""
    request = EngineRequest(**json.loads(text))
    from rayrlhf.runtime.environment import quiet_process, set_variables, vllm_variables

    set_variables(quiet_process(request.threads))
    set_variables(vllm_variables(request.threads, 1, 1))
    with tempfile.TemporaryDirectory() as folder:
        points = asyncio.run(_measure(request, Path(folder)))
    print(json.dumps({"points": points}), flush=True)


async def _measure(request: EngineRequest, folder: Path) -> list[dict[str, Any]]:
    from rayrlhf.engines.generation import GenerationEngine
    from rayrlhf.engines.generation_spec import GenerationSpec
    from rayrlhf.jobs.plan.training_probe import random_model

    model, shape = random_model(request.layers, request.hidden, request.vocabulary, request.dtype)
    model.save_pretrained(folder)
    engine = GenerationEngine(GenerationSpec(str(folder), request.dtype, MAX_LENGTH, 64))
    try:
        points = await _generation_points(engine, shape, model.dtype.itemsize)
        points += await _sync_points(engine, model, shape)
        return [*points, _memory_point(shape, model.dtype.itemsize)]
    finally:
        engine.shutdown()


async def _generation_points(engine: Any, shape: ModelShape, itemsize: int) -> list[dict[str, Any]]:
    points = []
    await _generate(engine, shape, LOADS[1])
    for load in LOADS:
        taken = [await _generate(engine, shape, load) for _ in range(3)]
        requests, prompt, answer = load
        amount = work.generation(shape, (prompt,) * requests, answer, 64, itemsize)
        points.append({"kind": "rollout", "work": amount, "seconds": statistics.median(taken)})
    return points


async def _generate(engine: Any, shape: ModelShape, load: tuple[int, int, int]) -> float:
    from rayrlhf.engines.generation_spec import Sampling
    from rayrlhf.types import Prompt

    requests, length, answer = load
    now = time.perf_counter_ns()
    prompts = [  # all different: a cached prefix would cost nothing
        Prompt(str(i), (), tuple((now // 977 + i * 31 + k * 7) % shape.vocabulary for k in range(length)))
        for i in range(requests)
    ]
    started = time.perf_counter()
    await asyncio.gather(*(engine.complete(p, Sampling(answer, 1.0, ()), i) for i, p in enumerate(prompts)))
    return time.perf_counter() - started


async def _sync_points(engine: Any, model: Any, shape: ModelShape) -> list[dict[str, Any]]:
    """Pushes as `weight_sync/push.py` makes them, without Ray: its calls are in the loop's fixed share."""
    import torch

    from rayrlhf.engines.weight_source import WeightSource
    from rayrlhf.weight_sync.sender import WeightSender

    sender = WeightSender(WeightSource(model), 256 << 20, torch.device("cpu"))
    where = sender.open("127.0.0.1", 2, 60.0)
    info = {"address": where.address, "port": where.port, "world_size": 2, "timeout_s": 60.0, "first_rank": 1}
    with ThreadPoolExecutor(1) as pool:
        await _both(engine.join_transfer(info), pool, sender.join, where)
        taken = [await _push(engine, sender, pool, version) for version in range(3)]
    return [{"kind": "sync", "work": work.push(shape, model.dtype.itemsize), "seconds": statistics.median(taken)}]


async def _push(engine: Any, sender: Any, pool: ThreadPoolExecutor, version: int) -> float:
    started = time.perf_counter()
    await engine.pause()
    specs = [(s.name, s.dtype, list(s.shape)) for s in sender.specs]
    update = {"specs": specs, "bucket_bytes": 256 << 20, "timeout_s": 60.0}
    await _both(engine.receive(version, update), pool, sender.send, 60.0)
    await engine.worker_call("received_digests")
    await engine.worker_call("weight_deviations")
    await engine.resume()
    await engine.logprobs(range(5, 69))
    return time.perf_counter() - started


def _memory_point(shape: ModelShape, itemsize: int) -> dict[str, Any]:
    """MiB of the engine's processes after it has generated and taken weights."""
    import psutil

    me = psutil.Process()
    resident = sum(process.memory_info().rss for process in me.children(recursive=True)) / 2**20
    amount = {"calls": 1, "weights": itemsize * shape.parameters / 2**20, "vocabulary": shape.vocabulary}
    return {"kind": "engine_memory", "work": amount, "seconds": resident}


async def _both(receiving: Coroutine[Any, Any, Any], pool: ThreadPoolExecutor, send: Any, argument: Any) -> None:
    sending = asyncio.get_running_loop().run_in_executor(pool, send, argument)
    await receiving
    await sending


if __name__ == "__main__":
    main(sys.argv[1])
