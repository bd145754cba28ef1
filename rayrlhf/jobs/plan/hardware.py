"""Machines that a plan can be made for, and what is assumed of them where nothing was measured.

The shares of a data sheet's figures that software reaches are assumptions, listed with every plan that rests on them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from rayrlhf.jobs.plan.costs import Coefficients, between_threads
from rayrlhf.jobs.plan.gpus import GPU, GPUS

GIB = 2**30


MFU_FORWARD, MFU_BACKWARD, MFU_DECODE = 0.45, 0.40, 0.25
BANDWIDTH_SHARE = 0.6
NETWORK_TB_S = 0.05
LAYER_LAUNCHES_S = 1.5e-4
"""About 30 kernels of 5 microseconds; the backward pass launches about three times as many."""
DECODE_LAYER_S = {True: 1.0e-4, False: 2.0e-5}
"""Of one layer in one decoding step: eager, and with CUDA graphs."""


@dataclass(frozen=True, slots=True)
class Machine:
    """All that predictions need of the hardware: counts, memory, and seconds per unit of work."""

    title: str
    nodes: int
    cores: int
    """Per node."""
    memory_bytes: float
    """Host memory per node; 0 where it is not known."""
    gpus_per_node: int
    gpu_bytes: float
    one_thread: Mapping[str, Coefficients]
    all_cores: Mapping[str, Coefficients]
    fixed: Mapping[str, float]
    """Seconds of a phase that do not depend on the model."""
    base_mib: Mapping[str, float]
    engine_memory: Mapping[str, float]
    is_estimate: bool
    assumptions: tuple[str, ...] = field(default=())
    crowding: Mapping[str, float] = field(default_factory=dict)
    """Seconds that a phase takes longer where several models compute in it, for each second of its own, or of scoring
    beside the rollout."""

    @property
    def is_gpu(self) -> bool:
        """Whether roles compute on GPUs."""
        return self.gpus_per_node > 0

    def coefficients(self, kind: str, threads: int) -> Coefficients:
        """Seconds per unit of work of one kind of call; a GPU does not ask for threads."""
        if self.is_gpu:
            return self.all_cores[kind]
        return between_threads(self.one_thread[kind], self.all_cores[kind], self.cores, threads)


def gpu_machine(name: str, nodes: int, gpus_per_node: int, dtype: str, eager: bool) -> Machine:
    """A cluster of GPUs as their data sheet describes them: an estimate, never measured."""
    gpu = GPUS[name]
    link = gpu.link_tb_s if nodes == 1 else min(gpu.link_tb_s, NETWORK_TB_S)
    return Machine(
        title=f"{nodes} node{'s' * (nodes > 1)} with {gpus_per_node} x {gpu.title}",
        nodes=nodes,
        cores=0,
        memory_bytes=0.0,
        gpus_per_node=gpus_per_node,
        gpu_bytes=gpu.memory_gb * 1e9,
        one_thread={},
        all_cores=_sheet_coefficients(gpu, dtype, link * 1e12, eager),
        fixed={"rollout": 0.05, "score": 0.05, "learn": 0.05, "weight_sync": 0.15, "commit": 0.05, "between": 0.05},
        base_mib=dict.fromkeys(("learner", "critic", "reference", "reward", "rollout"), 1500.0),
        engine_memory={},
        is_estimate=True,
        assumptions=_gpu_assumptions(gpu, dtype, nodes, eager),
    )


def _sheet_coefficients(gpu: GPU, dtype: str, link: float, eager: bool) -> dict[str, dict[str, float]]:
    flops = (gpu.bfloat16_tflops if dtype == "bfloat16" else gpu.float32_tflops) * 1e12
    bandwidth, itemsize = gpu.memory_tb_s * 1e12 * BANDWIDTH_SHARE, 2 if dtype == "bfloat16" else 4
    forward = {
        "calls": 5e-4,
        "layers": LAYER_LAUNCHES_S,
        "layer_elements": itemsize / bandwidth,
        "matrix_flops": 1 / (flops * MFU_FORWARD),
        "attention_flops": 1 / (flops * MFU_FORWARD),
        "head_flops": 1 / (flops * MFU_FORWARD),
        "logits": 4 * 5 / bandwidth,
    }
    backward = {name: 3 * cost * MFU_FORWARD / MFU_BACKWARD for name, cost in forward.items()}
    backward["head_flops"] *= 4 / 3  # chunks of logits are computed again
    return {
        "forward": forward,
        "backward": backward,
        "update": {"calls": 2e-3, "tensors": 2e-5, "parameters": 40 / bandwidth},
        "exchange": {"calls": 1e-4, "tensors": 2e-5, "bytes": 1 / (link * BANDWIDTH_SHARE)},
        "gather": {"calls": 1e-4, "tensors": 2e-5, "bytes": 1 / (link * BANDWIDTH_SHARE)},
        "rollout": {
            "requests": 5e-4,
            "iterations": 2e-3,
            "layer_iterations": DECODE_LAYER_S[eager],
            "weight_bytes": 1 / bandwidth,
            "tokens": 2e-5,
            "matrix_flops": 1 / (flops * MFU_DECODE),
            "logits": 4 * 4 / bandwidth,
            "prompt_flops": 1 / (flops * MFU_FORWARD),
            "cache_bytes": 1 / bandwidth,
        },
        "sync": {"tensors": 5e-4, "layers": 1e-3, "bytes": 1 / (link * BANDWIDTH_SHARE) + 4 / bandwidth},
        "snapshot": {"parameters": 12 / 10e9},
    }


def _gpu_assumptions(gpu: GPU, dtype: str, nodes: int, eager: bool) -> tuple[str, ...]:
    tflops = gpu.bfloat16_tflops if dtype == "bfloat16" else gpu.float32_tflops
    network = f"; {NETWORK_TB_S * 8000:.0f} Gbit/s for each GPU between nodes" if nodes > 1 else ""
    return (
        f"{gpu.title}: {tflops:g} TFLOP/s dense in {dtype}, {gpu.memory_tb_s:g} TB/s, {gpu.memory_gb:g} GB "
        "(data sheet)",
        f"{MFU_FORWARD:.0%} of it reached forward, {MFU_BACKWARD:.0%} backward, {MFU_DECODE:.0%} in decoding; "
        f"{BANDWIDTH_SHARE:.0%} of all bandwidths",
        f"GPUs of a node are joined at {gpu.link_tb_s * 1000:g} GB/s one way{network}",
        f"a layer's launches take {LAYER_LAUNCHES_S * 1e3:g} ms forward, {DECODE_LAYER_S[eager] * 1e3:g} ms in decoding"
        f" ({'eager' if eager else 'CUDA graphs'}); 1.5 GiB a process for contexts and NCCL",
        "rewards from a function or a service cost no time",
    )


CPU_BASE_MIB = {
    "learner": 665.0, "critic": 565.0, "reference": 530.0, "reward": 600.0, "rollout": 1990.0, "driver": 550.0,
}  # fmt: skip
CPU_ENGINE = {"weights": 4.0, "vocabulary": 0.002}


def cpu_estimate(nodes: int, cores: int, memory_bytes: float, dtype: str) -> Machine:
    """A CPU machine that was not calibrated: right by a factor of two or three, no better."""
    one, every = _core_coefficients(1), _core_coefficients(cores)
    return Machine(
        title=f"{nodes} node{'s' * (nodes > 1)} with {cores} cores",
        nodes=nodes,
        cores=cores,
        memory_bytes=memory_bytes,
        gpus_per_node=0,
        gpu_bytes=0.0,
        one_thread=one,
        all_cores=every,
        fixed={"rollout": 0.03, "score": 0.02, "learn": 0.02, "weight_sync": 0.05, "commit": 0.02, "between": 0.03},
        base_mib=CPU_BASE_MIB,
        engine_memory=CPU_ENGINE,
        is_estimate=True,
        assumptions=(
            f"not calibrated ({dtype}): 40 GFLOP/s a core, 10 GB/s of memory bandwidth for all; "
            "`--calibrate` measures this machine",
        ),
    )


def _core_coefficients(cores: int) -> dict[str, dict[str, float]]:
    flop, byte = 1 / (40e9 * cores), 1 / 10e9
    forward = {
        "calls": 1e-3,
        "layers": 6e-4,
        "layer_elements": 4 * byte / cores,
        "matrix_flops": flop,
        "attention_flops": flop,
        "head_flops": flop,
        "logits": 20 * byte,
    }
    return {
        "forward": forward,
        "backward": {name: 3 * cost for name, cost in forward.items()},
        "update": {"calls": 1e-3, "tensors": 5e-5, "parameters": 40 * byte},
        "exchange": {"calls": 2e-3, "tensors": 1e-4, "bytes": 1 / 1e9},
        "gather": {"calls": 2e-3, "tensors": 2e-4, "bytes": 1 / 1e9},
        "rollout": {
            "requests": 2e-3,
            "iterations": 5e-3,
            "layer_iterations": 5e-4,
            "weight_bytes": byte,
            "matrix_flops": flop,
            "logits": 8 * byte,
            "prompt_flops": flop,
        },
        "sync": {"calls": 0.06, "tensors": 5e-4, "layers": 2e-3, "bytes": 1 / 0.5e9},
        "snapshot": {"parameters": 12 / 2e9},
        "write": {"parameters": 12 / 0.25e9},
    }
