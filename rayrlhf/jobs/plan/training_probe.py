"""Measures training on this machine: random models of a few shapes through the real `TrainingEngine`.

    python -m rayrlhf.jobs.plan.training_probe '{"threads": 2, "rank": 0, "ranks": 1, "port": 29511, …}'

A process of its own for each number of threads and each rank. Prints one JSON line: the points of each kind of call.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rayrlhf.jobs.plan import work
from rayrlhf.jobs.plan.geometry import MicroBatch
from rayrlhf.jobs.plan.model_shape import ModelShape, shape_of

SHAPES = ((2, 64, 2048), (8, 128, 2048), (4, 256, 4096), (2, 512, 8192), (8, 576, 8192), (2, 576, 49152))
"""Layers, width and vocabulary: narrow models show the cost of a call, wide ones that of arithmetic."""
BATCHES = ((4, 32), (16, 48), (16, 128))
"""Rows and length; half of the tokens are answers."""
PAIR_SHAPES = ((2, 64, 2048), (8, 128, 2048), (2, 512, 8192))
MOST_LOGITS = 20_000_000
REPEATS = 5
LONG_S = 1.5


@dataclass(frozen=True, slots=True)
class ProbeRequest:
    """What one process measures."""

    threads: int
    dtype: str
    port: int
    stages: Sequence[int] = (2,)
    rank: int = 0
    ranks: int = 1


def main(text: str) -> None:
    """Measure and print."""
    request = ProbeRequest(**json.loads(text))
    from rayrlhf.runtime.environment import quiet_process, set_variables

    set_variables(quiet_process(request.threads))
    import torch

    from rayrlhf.engines.process_group import join
    from rayrlhf.role_types import Rendezvous

    torch.set_num_threads(request.threads)
    join(Rendezvous("127.0.0.1", request.port, request.ranks, 120.0), request.rank)
    points: list[dict[str, Any]] = []
    for stage in request.stages:
        for shape in SHAPES if request.ranks == 1 else PAIR_SHAPES:
            points += _measure(request, stage, shape)
    print(json.dumps({"points": points}), flush=True)


def _measure(request: ProbeRequest, stage: int, sizes: tuple[int, int, int]) -> list[dict[str, Any]]:
    from rayrlhf.config.sections import LearnerConfig
    from rayrlhf.engines.models import TokenLogprobs
    from rayrlhf.engines.training import TrainingEngine

    model, shape = random_model(*sizes, request.dtype)
    engine = TrainingEngine(TokenLogprobs(model), LearnerConfig(zero_stage=stage), request.dtype)  # type: ignore[arg-type]
    points = []
    for rows, length in BATCHES if request.ranks == 1 else BATCHES[:1]:
        batch = MicroBatch(rows, length, rows * length // 2)
        if batch.answers * shape.vocabulary > MOST_LOGITS:
            continue
        tensors, amount = _tensors(batch, shape.vocabulary), work.model_pass(shape, batch)
        forward_s = typical_s(partial(engine.forward_each, [tensors], _logprobs))
        points.append({"kind": "forward", "work": amount, "seconds": forward_s})
        backward_s = typical_s(partial(engine.accumulate, [tensors], _objective), engine.step)
        points.append({"kind": "backward", "work": amount, "seconds": backward_s})
    points += _update_points(request.ranks, stage, engine, shape, tensors)
    exchanged = {
        "gathering": work.gathering(shape, request.ranks, model.dtype.itemsize),
        "reduction": work.reduction(shape, request.ranks, stage, model.dtype.itemsize),
    }
    return [{**point, **exchanged, "stage": stage, "shape": asdict(shape)} for point in points]


def _update_points(ranks: int, stage: int, engine: Any, shape: ModelShape, tensors: Any) -> list[dict[str, Any]]:
    """The optimizer's step, the copy that a checkpoint is written from, and the writing."""
    from rayrlhf.data.durable import digest_file
    from rayrlhf.engines.training_state import snapshot

    engine.accumulate([tensors], _objective)
    update_s = typical_s(engine.step, lambda: engine.accumulate([tensors], _objective))
    amount = work.update(shape, ranks, stage)
    copied_s, copy = typical_s(lambda: snapshot(engine)), snapshot(engine)
    with tempfile.TemporaryDirectory() as folder:
        written_s = typical_s(lambda: digest_file(copy.write(Path(folder))))
    taken = {"update": update_s, "snapshot": copied_s, "write": written_s}
    return [{"kind": kind, "work": amount, "seconds": s} for kind, s in taken.items()]


def random_model(layers: int, hidden: int, vocabulary: int, dtype: str) -> tuple[Any, ModelShape]:
    """A Llama with random weights, and its shape."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from rayrlhf.engines.models import DTYPES

    heads = max(2, hidden // 64)
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=hidden, intermediate_size=3 * hidden, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=heads, tie_word_embeddings=True, max_position_embeddings=1024,
    )  # fmt: skip
    model = LlamaForCausalLM(config).to(DTYPES[dtype])
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    return model, shape_of("probe", config.to_dict(), shapes)


def typical_s(call: Callable[[], object], between: Callable[[], object] = lambda: None) -> float:
    """The median of a few calls after one that warms up. `between` is not measured."""
    call()
    between()
    taken: list[float] = []
    while len(taken) < REPEATS and sum(taken) < LONG_S:
        started = time.perf_counter()
        call()
        taken.append(time.perf_counter() - started)
        between()
    return statistics.median(taken)


def _tensors(batch: MicroBatch, vocabulary: int) -> tuple[Any, Any]:
    import torch

    ids = torch.randint(0, vocabulary, (batch.rows, batch.length))
    mask = torch.zeros(ids.shape, dtype=torch.float32)
    mask[:, batch.length // 2 :] = 1.0
    return ids, mask


def _logprobs(module: Any, tensors: tuple[Any, Any]) -> Any:
    return module(*tensors)[0]


def _objective(module: Any, tensors: tuple[Any, Any]) -> Any:
    from rayrlhf.algorithms.objectives import LossTerms

    logprobs, entropy = module(*tensors)
    return LossTerms((logprobs - 0.01 * entropy).mean(), {"entropy": float(entropy.detach().mean())})


if __name__ == "__main__":
    main(sys.argv[1])
