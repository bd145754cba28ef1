"""What each process of a job holds, in bytes: weights, gradients, optimizer, activations, cache, buckets, base.

One process is one Ray actor with its children: a learner or critic rank, a rollout worker with its engine, a reward or
reference worker. With P parameters of b bytes on N ranks (Rajbhandari et al., ZeRO, 2020, section 3; what differs is
read from DeepSpeed 0.19 as `engines/training.py` configures it):

    stage   weights   fp32 master   AdamW moments   gradients
    0       b P       -             8 P             4 P
    1       b P       4 P / N       8 P / N         4 P
    2       b P       4 P / N       8 P / N         4 P / N, and one bucket of b min(P, 5e8)
    3       b P / N   4 P / N       8 P / N         4 P / N, and one bucket of b min(P, 5e8); gathered layers

DeepSpeed keeps the master copy in float32 too. Its buckets are allocated whole on a GPU; on a CPU only pages that are
touched count. A checkpoint is written from a copy in host memory, 12 P / N (AdamW), while the next answers are
generated: where that is the node's memory too, a rank's peak is in learning or in saving, whichever is more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rayrlhf.config.jobs import RLJob
from rayrlhf.config.sections import TrainingConfig
from rayrlhf.jobs.plan.geometry import MicroBatch, StepGeometry
from rayrlhf.jobs.plan.model_shape import ModelShape
from rayrlhf.jobs.plan.models import JobModels

MIB, GIB = 2**20, 2**30
BUCKET_ELEMENTS = 500_000_000
"""DeepSpeed's `reduce_bucket_size`."""
PREFETCH_ELEMENTS = 50_000_000
"""DeepSpeed's `stage3_prefetch_bucket_size`."""
SCORING_COPIES, LEARNING_COPIES = 4, 8
"""Float32 copies of a chunk's logits at the peak: raw, scaled, softmax, product; learning has a gradient of each."""
CHUNK_POSITIONS = 1024
"""Positions that `algorithms/logprobs.py` projects at a time."""
CPU_EXTRA_LAYERS = 2
"""Layers' worth of activations that learning holds besides: another thread runs backward, from a heap of its own."""
CPU_SCORING = 1.7
"""What scoring holds per byte of a layer and of a chunk's logits: freed blocks of other sizes stay."""
ITEMSIZE = {"float32": 4, "bfloat16": 2}


@dataclass(frozen=True, slots=True)
class Device:
    """Where a process computes, and what it holds before it has any model."""

    is_gpu: bool
    base_mib: Mapping[str, float]
    """By role: imports, contexts, allocators."""
    gpu_bytes: float = 0.0
    """Memory of one GPU."""
    engine_mib_per_mib: float = 0.0
    """MiB that a CPU engine holds per MiB of its model, besides the base and the cache."""
    engine_mib_per_logit: float = 0.0
    """MiB that it holds per token of the vocabulary."""


@dataclass(frozen=True, slots=True)
class ProcessMemory:
    """One process of a role: bytes by what they are for."""

    role: str
    count: int
    gpus: float
    parts: Mapping[str, float]
    key: str
    """What to change where it does not fit."""

    @property
    def total(self) -> float:
        """Bytes of one process."""
        return sum(self.parts.values())


def job_memory(job: RLJob, models: JobModels, geometry: StepGeometry, device: Device) -> list[ProcessMemory]:
    """Every role's process at its peak."""
    found = [_rollout(job, models.policy, device), _trained("learner", job, models.policy, geometry, device)]
    if job.has_critic:
        found.append(_trained("critic", job, models.critic, geometry, device))
    if job.has_reference:
        found.append(_scorer("reference", job, models.reference, geometry, device))
    found.append(_scorer("reward", job, models.reward, geometry, device))
    return found


def training_state(
    shape: ModelShape, ranks: int, stage: int, itemsize: int, optimizer: str = "adamw"
) -> dict[str, float]:
    """Bytes that a rank holds between steps (see the table in the module's docstring)."""
    p = float(shape.parameters)
    shards = ranks if stage else 1
    weights = itemsize * (shape.small_parameters + (p - shape.small_parameters) / ranks if stage == 3 else p)
    return {
        "weights": weights,
        "master weights": 4 * p / shards if stage else 0.0,
        "optimizer": 8 * p / shards if optimizer == "adamw" else 0.0,
        "gradients": 4 * p / (ranks if stage >= 2 else 1),
    }


def activations(
    shape: ModelShape, batch: MicroBatch, itemsize: int, checkpointing: bool, extra_layers: int = 0
) -> float:
    """Bytes kept for the backward pass of the layers.

    A layer of a Llama keeps, in units of its width d, the inputs and normalised inputs of its two halves (6), the
    rotated query, the attention's output in two layouts (3), keys and values, and four tensors of the MLP's width.
    The gradients that flow back through a layer are as much once more. With gradient checkpointing one layer is alive
    at a time, and every layer's input is kept.
    """
    layer = 9 * shape.hidden + 2 * shape.key_value + 4 * shape.intermediate
    inputs, alive = (shape.layers * shape.hidden, 2) if checkpointing else (0, shape.layers + 1)
    return float(itemsize * batch.tokens * (inputs + (alive + extra_layers) * layer))


def logits(shape: ModelShape, batch: MicroBatch, copies: int) -> float:
    """Bytes of the float32 logits of one chunk, with what is made of them."""
    return float(4 * copies * min(batch.answers, CHUNK_POSITIONS) * shape.vocabulary)


def _trained(role: str, job: RLJob, shape: ModelShape, geometry: StepGeometry, device: Device) -> ProcessMemory:
    config: TrainingConfig = job.learner if role == "learner" else job.critic
    itemsize = ITEMSIZE[job.model.dtype]
    state = training_state(shape, config.ranks, config.zero_stage, itemsize, config.optimizer)
    learning = {"gradients": state.pop("gradients")}
    learning |= _buckets(itemsize, shape, config, device)
    minibatch = geometry.share(config.ranks, job.algorithm.minibatches)
    widest = max(geometry.micro_batches(minibatch, config.micro_batch_tokens), key=lambda batch: batch.tokens)
    extra = 0 if device.is_gpu else CPU_EXTRA_LAYERS
    learning["activations"] = activations(shape, widest, itemsize, job.model.gradient_checkpointing, extra)
    if role == "learner":
        learning["logits"] = logits(shape, widest, LEARNING_COPIES)
        bucket = float(min(job.weight_sync.bucket_mib * MIB, itemsize * shape.parameters))
        learning["sync bucket"] = 2 * bucket if device.is_gpu else bucket
    saving = {"snapshot": (12.0 if config.optimizer == "adamw" else 4.0) * shape.parameters / config.ranks}
    saves = not device.is_gpu and sum(saving.values()) > sum(learning.values())
    key = f"{role}.micro_batch_tokens, {role}.zero_stage or {role}.ranks"
    return _process(role, config.ranks, config.gpus, state | (saving if saves else learning), key, device)


def _buckets(itemsize: int, shape: ModelShape, config: TrainingConfig, device: Device) -> dict[str, float]:
    if config.zero_stage == 0:
        return {}
    elements = BUCKET_ELEMENTS if device.is_gpu else min(shape.parameters, BUCKET_ELEMENTS)
    bf16_stage_1 = config.zero_stage == 1 and itemsize == 2
    parts = {} if bf16_stage_1 else {"reduce bucket": float(itemsize * elements)}
    if config.zero_stage == 3:
        gathered = 2 * shape.largest_layer + min(PREFETCH_ELEMENTS, shape.parameters)
        parts["gathered layers"] = float(itemsize * min(gathered, shape.parameters))
    return parts


def _scorer(role: str, job: RLJob, shape: ModelShape | None, geometry: StepGeometry, device: Device) -> ProcessMemory:
    config = job.reference if role == "reference" else job.reward
    if shape is None:
        return _process(role, config.workers, config.gpus, {}, f"{role}.workers", device)
    itemsize = ITEMSIZE[job.model.dtype]
    share = geometry.prompts[:: config.workers]
    widest = max(geometry.micro_batches(share, config.micro_batch_tokens), key=lambda batch: batch.tokens)
    layer = itemsize * widest.tokens * (4 * shape.hidden + 3 * shape.intermediate)
    held = 1.0 if device.is_gpu else CPU_SCORING
    parts = {"weights": float(itemsize * shape.parameters), "activations": held * layer}
    if role == "reference":
        parts["logits"] = held * logits(shape, widest, SCORING_COPIES)
    return _process(role, config.workers, config.gpus, parts, f"{role}.micro_batch_tokens", device)


def _rollout(job: RLJob, shape: ModelShape, device: Device) -> ProcessMemory:
    """On a GPU vLLM takes its share and fills what the weights leave with cache; on a CPU the cache is given."""
    config, itemsize = job.rollout, ITEMSIZE[job.model.dtype]
    weights = float(itemsize * shape.parameters)
    if device.is_gpu:
        share = config.gpu_memory_share * device.gpu_bytes
        bucket = float(min(job.weight_sync.bucket_mib * MIB, weights))
        per_rank = weights / config.tensor_parallel
        parts = {"weights": per_rank, "cache": max(0.0, share - per_rank), "sync bucket": bucket}
        return _process("rollout", config.workers, config.gpus, parts, "rollout.gpu_memory_share", device)
    parts = {
        "weights": weights * device.engine_mib_per_mib,
        "logits": device.engine_mib_per_logit * MIB * shape.vocabulary,
        "cache": float(config.kv_cache_gib * GIB * config.tensor_parallel),
    }
    return _process("rollout", config.workers, config.gpus, parts, "rollout.kv_cache_gib", device)


def _process(role: str, count: int, gpus: float, parts: dict[str, float], key: str, device: Device) -> ProcessMemory:
    """A process without a GPU holds nothing on one."""
    base = {"base": 0.0 if device.is_gpu and not gpus else device.base_mib.get(role, 0.0) * MIB}
    return ProcessMemory(role, count, gpus, {n: v for n, v in (base | parts).items() if v}, key)


def cache_tokens(job: RLJob, shape: ModelShape, device: Device) -> float:
    """Tokens that one engine's KV cache holds."""
    per_token = 2 * ITEMSIZE[job.model.dtype] * shape.key_value * shape.layers / job.rollout.tensor_parallel
    cache = _rollout(job, shape, device).parts.get("cache", 0.0)
    return cache / per_token / (1 if device.is_gpu else job.rollout.tensor_parallel)
