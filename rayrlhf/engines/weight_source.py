"""Full weights of a trained module, bucket by bucket, whatever ZeRO has done to them.

vLLM's `ModuleSource` reads `p.shape` and gathers only DTensors, so it cannot serve ZeRO-3, where a parameter is an
empty tensor with a `ds_shape`. Buckets are cut from names and shapes alone, so both ends of a transfer agree on them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext

import torch
from torch import nn

from rayrlhf.engines.tensor_spec import TensorSpec, cut_buckets, unpack


class WeightSource:
    """The weights of a Hugging Face model that DeepSpeed trains; every pass is a collective of all ranks."""

    def __init__(self, model: nn.Module) -> None:
        self._parameters = dict(model.named_parameters())
        self.specs = [
            TensorSpec(name, str(p.dtype).removeprefix("torch."), tuple(getattr(p, "ds_shape", p.shape)))
            for name, p in self._parameters.items()
        ]

    def buckets(self, bucket_bytes: int) -> Iterator[tuple[list[TensorSpec], torch.Tensor]]:
        """Each bucket's specs and its bytes, one flat uint8 tensor, valid until the next one is asked for."""
        import deepspeed

        for specs in cut_buckets(self.specs, bucket_bytes):
            parameters = [self._parameters[spec.name] for spec in specs]
            sharded = any(hasattr(p, "ds_id") for p in parameters)
            with deepspeed.zero.GatheredParameters(parameters) if sharded else nullcontext():
                flat = torch.cat([p.detach().contiguous().view(-1).view(torch.uint8) for p in parameters])
            yield specs, flat

    def state_dict(self, bucket_bytes: int = 2**28) -> dict[str, torch.Tensor]:
        """All full weights on the CPU, for export."""
        state: dict[str, torch.Tensor] = {}
        for specs, flat in self.buckets(bucket_bytes):
            state |= {name: tensor.cpu().clone() for name, tensor in unpack(specs, flat)}
        return state
