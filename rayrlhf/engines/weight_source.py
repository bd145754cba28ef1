"""Full weights of a trained module, bucket by bucket, whatever ZeRO has done to them.

vLLM's `ModuleSource` reads `p.shape` and gathers only DTensors, so it cannot serve ZeRO-3, where a parameter is an
empty tensor with a `ds_shape`. Buckets are cut from names and shapes alone, so both ends of a transfer agree on them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from math import prod

import deepspeed
import torch
from torch import nn


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Name (as in the Hugging Face model), dtype on the wire and full shape of one weight."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def size_bytes(self) -> int:
        """Bytes on the wire."""
        return prod(self.shape) * getattr(torch, self.dtype).itemsize


def cut_buckets(specs: list[TensorSpec], bucket_bytes: int) -> list[list[TensorSpec]]:
    """Consecutive specs of at most `bucket_bytes` together; a larger tensor has a bucket of its own."""
    buckets: list[list[TensorSpec]] = []
    filled = 0
    for spec in specs:
        if not buckets or filled + spec.size_bytes > bucket_bytes:
            buckets.append([])
            filled = 0
        buckets[-1].append(spec)
        filled += spec.size_bytes
    return buckets


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


def unpack(specs: list[TensorSpec], flat: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    """The named tensors of a bucket's bytes. Copies: a slice of bytes need not be aligned for its dtype."""
    start = 0
    for spec in specs:
        part = flat.narrow(0, start, spec.size_bytes).clone()
        yield spec.name, part.view(getattr(torch, spec.dtype)).view(spec.shape)
        start += spec.size_bytes
