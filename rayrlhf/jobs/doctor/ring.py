"""How fast ranks on different nodes talk: each sends to the next of a ring, as gloo and, where there is CUDA, NCCL.

The ranks meet as the learner's do (`engines/process_group.py`). Each is a process of its own, which a deadline ends:

    python -m rayrlhf.jobs.doctor.ring RANK WORLD_SIZE ADDRESS PORT
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass

from rayrlhf.jobs.doctor.findings import Check, Finding
from rayrlhf.jobs.doctor.isolated import run_program

MIB_SENT = 32
ROUNDS = 4
TIMEOUT_S = 120.0
MEETING_S = 60.0
SLOW_MIB_S = 100.0
"""A gigabit network moves about 110: weights of 7 B parameters in bfloat16 take two minutes over it."""
BACKENDS = {"gloo": "cpu", "nccl": "cuda"}
RING = Check("network", "ring of ranks")


@dataclass(frozen=True, slots=True)
class RingFacts:
    """MiB/s from a rank to the next, by backend; or why there is no figure."""

    mib_s: Mapping[str, float]
    trouble: str = ""


def gather_ring(rank: int, world_size: int, address: str, port: int, gpus: str = "") -> RingFacts:
    """Be one rank; `address` and `port` are rank 0's. `gpus`: which the rank may see; without any it is gloo alone."""
    arguments = [str(rank), str(world_size), address, str(port)]
    outcome = run_program(__name__, *arguments, timeout_s=TIMEOUT_S, gpus=gpus)
    return RingFacts({}, outcome.trouble) if outcome.told is None else RingFacts(outcome.told)


def judge_ring(facts: Mapping[str, RingFacts]) -> list[Finding]:
    """All met, and none is slow. Who failed is named; the others failed with it."""
    troubled = {node: ring.trouble for node, ring in facts.items() if ring.trouble}
    if troubled:
        reasons: dict[str, list[str]] = {}
        for node, why in troubled.items():
            reasons.setdefault(why, []).append(node)
        told = "; ".join(f"{', '.join(nodes)}: {why}" for why, nodes in reasons.items())
        remedy = "GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME choose the interface; NCCL_DEBUG=INFO says more"
        return [RING.red(f"the ranks did not meet: {told}", remedy)]
    found = []
    for backend in BACKENDS:
        rates = {node: ring.mib_s[backend] for node, ring in facts.items() if backend in ring.mib_s}
        if not rates:
            continue
        slowest = min(rates, key=lambda node: rates[node])
        told = f"{backend} among {len(facts)} ranks: {rates[slowest]:.0f} MiB/s or more a rank"
        if rates[slowest] < SLOW_MIB_S:
            remedy = "choose a faster interface (GLOO_SOCKET_IFNAME, NCCL_SOCKET_IFNAME), or expect slow weight pushes"
            found.append(RING.yellow(f"{told}, the slowest is {slowest}", remedy))
        else:
            found.append(RING.green(told))
    return found


def measure(rank: int, world_size: int) -> dict[str, float]:
    """MiB/s of this rank's sends, by backend, in the default group."""
    import torch

    backends = [name for name, device in BACKENDS.items() if device == "cpu" or torch.cuda.is_available()]
    return {backend: _rate(rank, world_size, BACKENDS[backend]) for backend in backends}


def _rate(rank: int, world_size: int, device: str) -> float:
    import torch
    import torch.distributed as dist

    out = torch.ones(MIB_SENT * 2**18, device=device)
    into = torch.zeros_like(out)
    started = 0.0
    for turn in range(ROUNDS + 1):
        if turn == 1:  # the first one connects
            started = time.monotonic()
        operations = [dist.P2POp(dist.isend, out, (rank + 1) % world_size)]
        operations.append(dist.P2POp(dist.irecv, into, (rank - 1) % world_size))
        for request in dist.batch_isend_irecv(operations):
            request.wait()
        if device == "cuda":
            torch.cuda.synchronize()
    if not bool((into == 1).all()):
        raise RuntimeError(f"what arrived over {device} is not what was sent")
    return ROUNDS * MIB_SENT / (time.monotonic() - started)


def _main(rank: int, world_size: int, address: str, port: int) -> None:
    import torch.distributed as dist

    from rayrlhf.engines.process_group import meet
    from rayrlhf.role_types import Rendezvous

    meet(Rendezvous(address, port, world_size, MEETING_S), rank)
    print(json.dumps(measure(rank, world_size)), flush=True)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    _main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
