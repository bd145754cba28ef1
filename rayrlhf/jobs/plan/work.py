"""How much there is to do, as counts: what each kind of call costs is these counts times a machine's coefficients.

    seconds of a call = sum over features of  count x seconds per count

The features are what the hardware does: a call, a layer's launches, multiplications of matrices, attention, elements
that pass through memory, the head's logits, bytes on a wire. Coefficients come from a calibration or a data sheet
(`costs.py`); neither is known here.
"""

from __future__ import annotations

from collections.abc import Mapping

from rayrlhf.jobs.plan.geometry import MicroBatch
from rayrlhf.jobs.plan.model_shape import ModelShape

Work = Mapping[str, float]
TRAINING = ("calls", "layers", "layer_elements", "matrix_flops", "attention_flops", "head_flops", "logits")
UPDATE = ("calls", "tensors", "parameters")
EXCHANGE = ("calls", "tensors", "bytes")
ROLLOUT = (
    "calls", "requests", "iterations", "layer_iterations", "weight_bytes", "tokens", "matrix_flops", "logits",
    "prompt_flops", "cache_bytes",
)  # fmt: skip
SYNC = ("calls", "tensors", "layers", "bytes")


def model_pass(shape: ModelShape, batch: MicroBatch, *, head: bool = True) -> dict[str, float]:
    """A forward pass of one micro-batch, or a forward and a backward one, which have coefficients of their own.

    `head`: answers are projected onto the vocabulary; a scalar head costs nothing that shows.
    """
    answers = batch.answers if head else 0
    return {
        "calls": 1,
        "layers": shape.layers,
        "layer_elements": batch.tokens * shape.layers * (8 * shape.hidden + 3 * shape.intermediate),
        "matrix_flops": 2 * batch.tokens * shape.layer_matrices,
        "attention_flops": 2 * batch.rows * batch.length**2 * shape.hidden * shape.layers,
        "head_flops": 2 * answers * shape.embedding,
        "logits": answers * shape.vocabulary,
    }


def update(shape: ModelShape, ranks: int, stage: int) -> dict[str, float]:
    """An optimizer step of one rank: its shard, or all where nothing is sharded."""
    owned = shape.parameters / (ranks if stage else 1)
    return {"calls": 1, "tensors": shape.tensors, "parameters": owned}


def reduction(shape: ModelShape, ranks: int, stage: int, itemsize: int) -> dict[str, float]:
    """What ranks send each other in one optimizer step: gradients, and the new weights where they are sharded."""
    if ranks == 1 and stage < 3:
        return {}
    gathered = itemsize * shape.parameters if 1 <= stage < 3 else 0
    sent = (2 * itemsize * shape.parameters if stage < 2 else itemsize * shape.parameters) + gathered
    return {"calls": 1, "tensors": shape.tensors, "bytes": sent * (ranks - 1) / ranks}


def gathering(shape: ModelShape, ranks: int, itemsize: int) -> dict[str, float]:
    """What ZeRO-3 gathers in one pass over the model."""
    return {"calls": 1, "tensors": shape.tensors, "bytes": itemsize * shape.parameters * (ranks - 1) / ranks}


def generation(
    shape: ModelShape, prompts: tuple[int, ...], answer: float, concurrent: int, itemsize: int
) -> dict[str, float]:
    """All requests of one engine, decoded together as far as `concurrent` allows; prompts are computed once each.

    An iteration gives every running sequence a token. It reads all weights and the running sequences' caches once.
    """
    requests = len(prompts)
    waves = max(1.0, requests / concurrent)
    tokens = requests * answer
    context = sum(prompts) / requests + answer / 2
    return {
        "calls": 1,
        "requests": requests,
        "iterations": waves * answer,
        "layer_iterations": waves * answer * shape.layers,
        "weight_bytes": waves * answer * itemsize * shape.parameters,
        "tokens": tokens,
        "matrix_flops": 2 * tokens * (shape.layer_matrices + shape.embedding),
        "logits": tokens * shape.vocabulary,
        "prompt_flops": 2 * sum(prompts) * shape.layer_matrices,
        "cache_bytes": tokens * context * 2 * itemsize * shape.key_value * shape.layers,
    }


def push(shape: ModelShape, itemsize: int) -> dict[str, float]:
    """A weight sync: every tensor is gathered, sent, loaded, digested, and every layer is proven."""
    return {"calls": 1, "tensors": shape.tensors, "layers": shape.layers, "bytes": itemsize * shape.parameters}
