"""The receiving end of a weight push, inside each vLLM worker process.

    start ──▶ layers on meta ──▶ buckets: broadcast, digest, expected response, load ──▶ finish: process, packed head
          ──▶ prove: each layer's own kernel answers the probe vector as the sent weight does

Runs on vLLM's weight-transfer protocol; knows nothing of Ray or DeepSpeed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead, VocabParallelEmbedding
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload
from vllm.model_executor.model_loader.reload.layerwise import _place_kernel_tensors, get_layerwise_info

from rayrlhf.engines.tensor_spec import TensorSpec, cut_buckets, unpack
from rayrlhf.weight_sync.digests import digest, response
from rayrlhf.weight_sync.layer_proof import layer_deviation
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
        self.digests: dict[str, int] = {}
        self.expected: dict[str, torch.Tensor] = {}

    def init_transfer_engine(self, init_info: BroadcastInitInfo) -> None:
        """Join the transfer group; blocks until the sender and all engines are there or the deadline passes."""
        rendezvous = TransferRendezvous(init_info.address, init_info.port, init_info.world_size, init_info.timeout_s)
        rank = init_info.first_rank + self.parallel_config.rank
        self._group = TransferGroup(rendezvous, rank, self.device)

    def start_weight_update(self) -> None:
        """Put every layer on meta and wait for its weights."""
        self.digests, self.expected = {}, {}
        initialize_layerwise_reload(self.model)

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """Receive and load one push (the base class would synchronise an accelerator that a CPU has not got)."""
        self.receive_weights(self.parse_update_info(update_info))

    def receive_weights(self, update_info: BroadcastUpdateInfo) -> None:
        """All buckets of one push, in the sender's order."""
        if self._group is None:
            raise RuntimeError("update_weights before init_weight_transfer_engine")
        specs = [TensorSpec(name, dtype, tuple(shape)) for name, dtype, shape in update_info.specs]
        self._group.begin(update_info.timeout_s)
        buckets = cut_buckets(specs, update_info.bucket_bytes)
        for number, bucket in enumerate(buckets, start=1):
            self._group.mark(number, len(buckets))
            size = sum(spec.size_bytes for spec in bucket)
            flat = torch.empty(size, dtype=torch.uint8, device=self.device)
            self._group.broadcast(flat)
            for name, tensor in unpack(bucket, flat):
                self.digests[name] = digest(tensor)
                self.expected[name] = response(tensor)
                self.model.load_weights([(name, tensor)])

    def abort(self) -> None:
        """Leave a push that failed: put back what was not replaced, so that the next push can start from any state.

        The model may hold parts of two versions now; it stays paused until a whole push has gone through.
        """
        self._group = None
        self.digests, self.expected = {}, {}
        for layer in self.model.modules():
            info = get_layerwise_info(layer)
            if info.can_load() and info.kernel_tensors is not None:
                _place_kernel_tensors(layer, info)
            info.reset()

    def finish_weight_update(self) -> None:
        """Process what was loaded, then the head: a reload leaves a tied head's packed copy stale."""
        finalize_layerwise_reload(self.model, self.model_config)
        for layer in self.model.modules():
            if isinstance(layer, ParallelLMHead) and self._is_tied(layer):
                layer.quant_method.process_weights_after_loading(layer)

    def deviations(self) -> dict[str, float]:
        """Largest relative deviation of each layer's own answer from that of the weights that were sent."""
        modules = dict(self.model.named_modules())
        stacked = getattr(self.model, "packed_modules_mapping", {}) or {}
        found: dict[str, float] = {}
        for path, layer in modules.items():
            sources = _sources(path, layer, stacked, self.expected)
            if sources is not None:
                found[path] = layer_deviation(layer, sources, self.model_config.dtype)
        return found

    def shutdown(self) -> None:
        """Leave the group."""
        self._group = None

    def _is_tied(self, head: nn.Module) -> bool:
        return bool(getattr(self.model_config.hf_config, "tie_word_embeddings", False))


def _sources(
    path: str, layer: nn.Module, stacked: dict[str, list[str]], expected: dict[str, torch.Tensor]
) -> list[torch.Tensor] | None:
    """The expected responses of the weights that make up this layer; None for a layer without a weight of its own."""
    parent, _, leaf = path.rpartition(".")
    prefix = f"{parent}." if parent else ""
    names = [f"{prefix}{part}.weight" for part in stacked.get(leaf, [leaf])]
    if all(name in expected for name in names):
        return [expected[name] for name in names]
    if isinstance(layer, ParallelLMHead):
        embeddings = [t for name, t in expected.items() if name.endswith(("embed_tokens.weight", "wte.weight"))]
        return embeddings[:1] or None
    if isinstance(layer, VocabParallelEmbedding) and f"{path}.weight" in expected:
        return [expected[f"{path}.weight"]]
    return None


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
        return self.weight_transfer_engine.digests

    def weight_deviations(self) -> dict[str, float]:
        """See `BroadcastWeightTransferEngine.deviations`."""
        return self.weight_transfer_engine.deviations()
