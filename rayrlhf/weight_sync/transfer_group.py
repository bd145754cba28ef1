"""The communicator of a weight transfer: a sender (rank 0) and every rollout engine rank, in a group of their own.

gloo on CPU and NCCL on CUDA differ in the one line that makes the group; rendezvous, broadcast, deadline and abort are
the same. A group serves one membership: when a peer dies it is thrown away and built again. Each rank marks in the
store which bucket it has come to, so that whoever stops can be named.
"""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from rayrlhf.role_types import SyncAddress

MARK = "rayrlhf-bucket"


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


def read_marks(where: SyncAddress) -> dict[int, str]:
    """The bucket that each rank has come to, in words; empty when the sender's store is gone."""
    try:
        socket.create_connection((where.address, where.port), timeout=2).close()  # torch reports a refusal at length
        store = dist.TCPStore(where.address, where.port, None, is_master=False, timeout=timedelta(seconds=2))
        found = {rank: f"{MARK}/{rank}" for rank in range(where.world_size)}
        return {rank: store.get(key).decode() for rank, key in found.items() if store.check([key])}
    except (OSError, dist.DistError):
        return {}


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
        self._rank = rank
        prefixed = dist.PrefixStore("rayrlhf-weights", store)
        backend: Any = dist.ProcessGroupNCCL if device.type == "cuda" else dist.ProcessGroupGloo
        self._group = backend(prefixed, rank, rendezvous.world_size, timeout)
        self._deadline = time.monotonic() + rendezvous.timeout_s

    def begin(self, timeout_s: float) -> None:
        """Start a push that has to end within `timeout_s`: all ranks give up at about the same moment."""
        self._deadline = time.monotonic() + timeout_s

    def mark(self, bucket: int, buckets: int) -> None:
        """Say which bucket (1-based) this rank has come to."""
        self._store.set(f"{MARK}/{self._rank}", f"bucket {bucket} of {buckets}")

    def broadcast(self, tensor: torch.Tensor) -> None:
        """Send (rank 0) or receive `tensor` in place; raises by the push's deadline if a peer is gone."""
        options = dist.BroadcastOptions()
        options.rootRank = 0
        options.timeout = timedelta(seconds=max(0.1, self._deadline - time.monotonic()))
        self._group.broadcast([tensor], options).wait()
        if tensor.device.type == "cuda":
            torch.cuda.synchronize(tensor.device)
