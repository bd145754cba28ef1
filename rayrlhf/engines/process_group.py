"""Joining a group of ranks, once per process, before DeepSpeed sees it."""

from __future__ import annotations

from datetime import timedelta

import torch
import torch.distributed as dist

from rayrlhf.role_types import Rendezvous
from rayrlhf.runtime.environment import rank_variables, set_variables


def join(rendezvous: Rendezvous, rank: int) -> None:
    """Become `rank` of the default process group, and let DeepSpeed know."""
    import deepspeed

    meet(rendezvous, rank)
    build_no_kernels()
    deepspeed.init_distributed(dist_backend="nccl" if torch.cuda.is_available() else "gloo")


def build_no_kernels() -> None:
    """Keep DeepSpeed from compiling `deepspeed_shm_comm` before a group starts; only its inference would use it.

    torch guards that with a lock file which a killed process leaves behind, and every later rank on the node waits for
    it for ever. Without the kernels a first start is half a minute shorter, too.
    """
    import deepspeed.ops

    deepspeed.ops.__compatible_ops__ = {}


def meet(rendezvous: Rendezvous, rank: int) -> None:
    """Become `rank` of the default process group: NCCL where there is CUDA, gloo elsewhere."""
    local_rank = 0  # Ray shows each actor only its own GPU
    set_variables(rank_variables(rank, rendezvous.world_size, rendezvous.address, rendezvous.port, local_rank))
    if not dist.is_initialized():
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo",
            init_method=f"tcp://{rendezvous.address}:{rendezvous.port}",
            rank=rank,
            world_size=rendezvous.world_size,
            timeout=timedelta(seconds=rendezvous.timeout_s),
        )
