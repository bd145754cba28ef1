"""Whether the roles fit: on each GPU, or in the memory of the nodes; each problem with the key to change.

Knows sizes and nothing of time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from rayrlhf.config.jobs import RLJob
from rayrlhf.jobs.plan.hardware import Machine
from rayrlhf.jobs.plan.memory import GIB, Device, ProcessMemory, cache_tokens
from rayrlhf.jobs.plan.models import JobModels
from rayrlhf.stages.bundles import role_bundles

USABLE_SHARE = 0.95
"""Of a GPU's or a node's memory: allocators fragment, and Ray ends actors at 95 % of a node."""


@dataclass(slots=True)
class SharedGPU:
    """One GPU and the processes on it."""

    free: float = 1.0
    roles: list[str] = field(default_factory=list)
    bytes: float = 0.0


def device_of(machine: Machine) -> Device:
    """What memory needs to know of a machine."""
    engine = machine.engine_memory
    weights, vocabulary = engine.get("weights", 0.0), engine.get("vocabulary", 0.0)
    return Device(machine.is_gpu, machine.base_mib, machine.gpu_bytes, weights, vocabulary)


def pack(processes: Sequence[ProcessMemory], tensor_parallel: int) -> list[SharedGPU]:
    """Every process on a GPU of its own, or with others where their fractions allow; whole ones first."""
    used: list[SharedGPU] = []
    actors = [p for p in processes for _ in range(p.count * (tensor_parallel if p.role == "rollout" else 1)) if p.gpus]
    for process in sorted(actors, key=lambda p: -p.gpus):
        share = min(process.gpus, 1.0)
        gpu = next((g for g in used if g.free >= share - 1e-9), None)
        if gpu is None:
            used.append(gpu := SharedGPU())
        gpu.free -= share
        gpu.roles.append(process.role)
        gpu.bytes += process.total
    return used


def problems(job: RLJob, models: JobModels, processes: Sequence[ProcessMemory], machine: Machine) -> list[str]:
    """What does not fit; empty where all does."""
    found = _gpu_problems(job, processes, machine) if machine.is_gpu else _host_problems(job, processes, machine)
    longest = job.data.max_prompt_tokens + job.rollout.max_tokens + 1
    room = cache_tokens(job, models.policy, device_of(machine))
    if room < longest:
        key = "rollout.gpu_memory_share" if machine.is_gpu else "rollout.kv_cache_gib"
        found.append(
            f"rollout: the KV cache has room for {room:,.0f} tokens, the longest sequence has {longest}: raise {key}"
            + (" or rollout.tensor_parallel" if machine.is_gpu else "")
        )
    if models.policy.positions is not None and longest - 1 > models.policy.positions:
        found.append(
            f"model.path: data.max_prompt_tokens + rollout.max_tokens = {longest - 1}, but the model has "
            f"{models.policy.positions} positions: lower either"
        )
    return found


def _gpu_problems(job: RLJob, processes: Sequence[ProcessMemory], machine: Machine) -> list[str]:
    used = pack(processes, job.rollout.tensor_parallel)
    have = machine.nodes * machine.gpus_per_node
    found = []
    if len(used) > have:
        found.append(f"{len(used)} GPUs are needed, {have} are there: lower rollout.workers or learner.ranks")
    if job.rollout.tensor_parallel > machine.gpus_per_node:
        found.append(f"rollout.tensor_parallel = {job.rollout.tensor_parallel} is more than a node's GPUs: lower it")
    usable, seen = machine.gpu_bytes * USABLE_SHARE, set()
    for gpu in used:
        roles = " and ".join(dict.fromkeys(gpu.roles))
        if gpu.bytes > usable and roles not in seen:
            seen.add(roles)
            keys = "; ".join(dict.fromkeys(p.key for p in processes if p.role in gpu.roles))
            found.append(
                f"{roles}: {gpu.bytes / GIB:.1f} GiB on a GPU with {usable / GIB:.1f} GiB usable: change {keys}"
            )
    return found


def _host_problems(job: RLJob, processes: Sequence[ProcessMemory], machine: Machine) -> list[str]:
    found = []
    total, usable = sum(p.total * p.count for p in processes), machine.memory_bytes * machine.nodes * USABLE_SHARE
    if total > usable:
        worst = max(processes, key=lambda p: p.total * p.count)
        found.append(
            f"all roles hold {total / GIB:.1f} GiB, {usable / GIB:.1f} GiB are usable; most of it is "
            f"{worst.role}: change {worst.key}"
        )
    cpus, cores = sum(b.count * b.cpus for b in role_bundles(job)), machine.cores * machine.nodes
    if cpus > cores + 1e-9:
        found.append(f"all roles reserve {cpus:g} CPUs, there are {cores}: lower the roles' cpus")
    return found
