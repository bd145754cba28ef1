"""The sending end of a weight push, in the learner ranks. Rank 0 sends; all gather (ZeRO-3 is a collective)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist

from rayrlhf.engines.tensor_spec import TensorSpec, cut_buckets, unpack
from rayrlhf.engines.weight_source import WeightSource
from rayrlhf.weight_sync.digests import digest
from rayrlhf.weight_sync.transfer_group import TransferGroup, TransferRendezvous, open_store


@dataclass(frozen=True, slots=True)
class PushReport:
    """What the sender sent: digests by tensor, and how much."""

    digests: dict[str, int]
    size_bytes: int
    buckets: int


class WeightSender:
    """Broadcasts a `WeightSource` to every rollout engine rank."""

    def __init__(self, source: WeightSource, bucket_bytes: int, device: torch.device) -> None:
        self._source = source
        self._bucket_bytes = bucket_bytes
        self._device = device
        self._store: dist.TCPStore | None = None
        self._group: TransferGroup | None = None

    @property
    def specs(self) -> list[TensorSpec]:
        """What a push will send, in order."""
        return self._source.specs

    def open(self, address: str, world_size: int, timeout_s: float) -> TransferRendezvous:
        """Rank 0: listen for the engines on a free port of `address`."""
        self._store = open_store(address, world_size, timeout_s)
        return TransferRendezvous(address, self._store.port, world_size, timeout_s)

    def join(self, rendezvous: TransferRendezvous) -> None:
        """Rank 0: meet the engines; blocks until all are there."""
        self._group = TransferGroup(rendezvous, 0, self._device, self._store)

    def close(self) -> None:
        """Leave the group; the engines' own waits end with an error."""
        self._group = self._store = None

    def send(self, timeout_s: float) -> PushReport:
        """One push. Ranks other than 0 only take part in the gathering and report nothing sent."""
        digests: dict[str, int] = {}
        size = 0
        buckets = len(cut_buckets(self.specs, self._bucket_bytes))
        if self._group:
            self._group.begin(timeout_s)
        for number, (specs, flat) in enumerate(self._source.buckets(self._bucket_bytes), start=1):
            if self._group is None:
                continue
            self._group.mark(number, buckets)
            self._group.broadcast(flat)
            digests |= {name: digest(tensor) for name, tensor in unpack(specs, flat)}
            size += flat.numel()
        return PushReport(digests, size, buckets)
