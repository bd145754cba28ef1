"""What a generation engine is told; importable without vLLM."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class GenerationSpec:
    """What an engine needs to know; lengths in tokens."""

    model: str
    dtype: str
    max_model_length: int
    max_concurrent: int
    tensor_parallel: int = 1
    enforce_eager: bool = True
    gpu_memory_share: float = 0.5
    seed: int = 0
    worker_extension: str = "rayrlhf.weight_sync.receiver.WorkerExtension"


@dataclass(frozen=True, slots=True)
class Sampling:
    """How an answer is drawn."""

    max_tokens: int
    temperature: float
    stop_token_ids: tuple[int, ...]
