"""The communicator of a weight transfer: a sender (rank 0) and every rollout engine rank, in a group of their own.

gloo on CPU and NCCL on CUDA differ in the one line that makes the group; rendezvous, broadcast, deadline and abort are
the same. A group serves one membership: when a peer dies it is thrown away and built again.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist


@dataclass(frozen=True, slots=True)
class TransferRendezvous:
    """Where the sender's store listens, how many ranks meet there, and how long anyone waits for a peer."""

    address: str
    port: int
    world_size: int
    timeout_s: float


def open_store(address: str, world_size: int, timeout_s: float) -> dist.TCPStore:
    """The sender's store on a free port of `address`; keep a reference for as long as the group lives."""
    return dist.TCPStore(
        address, 0, world_size, is_master=True, timeout=timedelta(seconds=timeout_s), wait_for_workers=False
    )


class TransferGroup:
    """Rank `rank` of a transfer; every rank broadcasts the same buckets in the same order."""

    def __init__(
        self, rendezvous: TransferRendezvous, rank: int, device: torch.device, store: dist.TCPStore | None = None
    ) -> None:
        timeout = timedelta(seconds=rendezvous.timeout_s)
        if store is None:
            store = dist.TCPStore(
                rendezvous.address, rendezvous.port, rendezvous.world_size, is_master=False, timeout=timeout
            )
        self._store = store
        prefixed = dist.PrefixStore("rayrlhf-weights", store)
        backend: Any = dist.ProcessGroupNCCL if device.type == "cuda" else dist.ProcessGroupGloo
        self._group = backend(prefixed, rank, rendezvous.world_size, timeout)
        self._timeout = timeout

    def broadcast(self, tensor: torch.Tensor) -> None:
        """Send (rank 0) or receive `tensor` in place; raises within the rendezvous' deadline if a peer is gone."""
        options = dist.BroadcastOptions()
        options.rootRank = 0
        options.timeout = self._timeout
        self._group.broadcast([tensor], options).wait()
        if tensor.device.type == "cuda":
            torch.cuda.synchronize(tensor.device)
