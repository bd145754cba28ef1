"""What travels in a weight push, and how it is cut into buckets: the same arithmetic at both ends."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

import torch


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


def unpack(specs: list[TensorSpec], flat: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    """The named tensors of a bucket's bytes. Copies: a slice of bytes need not be aligned for its dtype."""
    start = 0
    for spec in specs:
        part = flat.narrow(0, start, spec.size_bytes).clone()
        yield spec.name, part.view(getattr(torch, spec.dtype)).view(spec.shape)
        start += spec.size_bytes
