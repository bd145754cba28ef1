"""Joining a group of ranks, once per process, before DeepSpeed sees it."""

from __future__ import annotations

from datetime import timedelta

import torch
import torch.distributed as dist

from rayrlhf.role_types import Rendezvous
from rayrlhf.runtime.environment import rank_variables, set_variables


def join(rendezvous: Rendezvous, rank: int) -> None:
    """Become `rank` of the default process group: NCCL where there is CUDA, gloo elsewhere."""
    import deepspeed

    local_rank = 0  # Ray shows each actor only its own GPU
    set_variables(rank_variables(rank, rendezvous.world_size, rendezvous.address, rendezvous.port, local_rank))
    cuda = torch.cuda.is_available()
    if not dist.is_initialized():
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if cuda else "gloo",
            init_method=f"tcp://{rendezvous.address}:{rendezvous.port}",
            rank=rank,
            world_size=rendezvous.world_size,
            timeout=timedelta(seconds=rendezvous.timeout_s),
        )
    deepspeed.init_distributed(dist_backend="nccl" if cuda else "gloo")
