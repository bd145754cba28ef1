"""GPUs as their makers' public data sheets describe them: dense, without sparsity. Nothing here was measured."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class GPU:
    """Per GPU: memory in GB, bandwidths in TB/s, arithmetic in TFLOP/s."""

    title: str
    memory_gb: float
    memory_tb_s: float
    bfloat16_tflops: float
    float32_tflops: float
    link_tb_s: float
    """To another GPU of the node, one way."""


GPUS = {
    "b200": GPU("NVIDIA B200", 180, 8.0, 2250, 75, 0.9),
    "h200": GPU("NVIDIA H200 SXM", 141, 4.8, 989, 67, 0.45),
    "h100": GPU("NVIDIA H100 SXM 80 GB", 80, 3.35, 989, 67, 0.45),
    "a100-80": GPU("NVIDIA A100 SXM 80 GB", 80, 2.039, 312, 19.5, 0.3),
    "a100-40": GPU("NVIDIA A100 SXM 40 GB", 40, 1.555, 312, 19.5, 0.3),
    "l40s": GPU("NVIDIA L40S", 48, 0.864, 362, 91.6, 0.032),
    "l4": GPU("NVIDIA L4", 24, 0.3, 121, 30.3, 0.032),
}
