"""The receiving end of a weight push, inside each vLLM worker process.

    start ──▶ layers on meta ──▶ buckets: broadcast, load ──▶ finish ──▶ prove (see `loading.py`)

Runs on vLLM's weight-transfer protocol; knows nothing of Ray or DeepSpeed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)

from rayrlhf.engines.tensor_spec import TensorSpec, cut_buckets, unpack
from rayrlhf.weight_sync.loading import LayerwiseLoad
from rayrlhf.weight_sync.transfer_group import TransferGroup, TransferRendezvous


@dataclass
class BroadcastInitInfo(WeightTransferInitInfo):
    """Where to meet the sender; this engine's tensor-parallel ranks are `first_rank`, `first_rank` + 1, …"""

    address: str
    port: int
    world_size: int
    first_rank: int
    timeout_s: float


@dataclass
class BroadcastUpdateInfo(WeightTransferUpdateInfo):
    """What one push will send, in order: `specs` are (name, dtype, shape)."""

    specs: list[tuple[str, str, list[int]]]
    bucket_bytes: int
    timeout_s: float


class BroadcastWeightTransferEngine(WeightTransferEngine[BroadcastInitInfo, BroadcastUpdateInfo]):
    """Receives buckets by broadcast and loads them layer by layer."""

    init_info_cls = BroadcastInitInfo
    update_info_cls = BroadcastUpdateInfo

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._group: TransferGroup | None = None
        self.load: LayerwiseLoad | None = None

    def init_transfer_engine(self, init_info: BroadcastInitInfo) -> None:
        """Join the transfer group; blocks until the sender and all engines are there or the deadline passes."""
        rendezvous = TransferRendezvous(init_info.address, init_info.port, init_info.world_size, init_info.timeout_s)
        rank = init_info.first_rank + self.parallel_config.rank
        self._group = TransferGroup(rendezvous, rank, self.device)

    def start_weight_update(self) -> None:
        """Put every layer on meta and wait for its weights."""
        self.load = LayerwiseLoad(self.model, self.model_config)
        self.load.begin()

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """Receive and load one push (the base class would synchronise an accelerator that a CPU has not got)."""
        self.receive_weights(self.parse_update_info(update_info))

    def receive_weights(self, update_info: BroadcastUpdateInfo) -> None:
        """All buckets of one push, in the sender's order."""
        if self._group is None or self.load is None:
            raise RuntimeError("update_weights before init_weight_transfer_engine and start_weight_update")
        specs = [TensorSpec(name, dtype, tuple(shape)) for name, dtype, shape in update_info.specs]
        self._group.begin(update_info.timeout_s)
        buckets = cut_buckets(specs, update_info.bucket_bytes)
        for number, bucket in enumerate(buckets, start=1):
            self._group.mark(number, len(buckets))
            size = sum(spec.size_bytes for spec in bucket)
            flat = torch.empty(size, dtype=torch.uint8, device=self.device)
            self._group.broadcast(flat)
            for name, tensor in unpack(bucket, flat):
                self.load.add(name, tensor)

    def abort(self) -> None:
        """Leave a push that failed: put back what was not replaced, so that the next push can start from any state.

        The model may hold parts of two versions now; it stays paused until a whole push has gone through.
        """
        self._group = None
        if self.load is not None:
            self.load.abandon()
            self.load = None

    def finish_weight_update(self) -> None:
        """Process what was loaded."""
        assert self.load is not None
        self.load.finish()

    def shutdown(self) -> None:
        """Leave the group."""
        self._group = None


class WorkerExtension:
    """Methods that vLLM mixes into its worker class, reached through `collective_rpc`."""

    weight_transfer_engine: BroadcastWeightTransferEngine
    _weight_update_active: bool

    def abort_transfer(self) -> None:
        """Leave a push that failed, at whatever point (see `BroadcastWeightTransferEngine.abort`)."""
        self.weight_transfer_engine.abort()
        self._weight_update_active = False

    def received_digests(self) -> dict[str, int]:
        """Digests of the tensors of the last push, as they arrived."""
        return load.digests if (load := self.weight_transfer_engine.load) is not None else {}

    def weight_deviations(self) -> dict[str, float]:
        """See `LayerwiseLoad.deviations`."""
        return load.deviations() if (load := self.weight_transfer_engine.load) is not None else {}
