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


def whole_prompts(on_gpu: bool) -> dict[str, bool]:
    """vLLM's setting for prompts that are not split over scheduling steps, on a CPU.

    Where a prompt is split, vLLM winds its request's generator back, which torch's CPU generators cannot: an engine
    with seeded requests would die of 2,048 waiting tokens.
    """
    return {} if on_gpu else {"enable_chunked_prefill": False}


@dataclass(frozen=True, slots=True)
class Sampling:
    """How an answer is drawn."""

    max_tokens: int
    temperature: float
    stop_token_ids: tuple[int, ...]
