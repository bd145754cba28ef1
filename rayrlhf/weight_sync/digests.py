"""Numbers that tell whether two tensors, or two ways of computing with a tensor, are the same.

`digest` is of the bytes: what was sent is what arrived. `response` is functional: the product of a weight with a seeded
vector, which an engine must reproduce *through its own kernel*. An engine can hold right bytes and still compute with
a stale packed copy; its response shows that.
"""

from __future__ import annotations

import torch

CHUNK_WORDS = 1 << 20
MULTIPLIER = 6364136223846793005


def digest(tensor: torch.Tensor) -> int:
    """A 64-bit checksum of the bytes and their order, computed on the tensor's device (wrapping int64 arithmetic)."""
    flat = tensor.detach().contiguous().view(-1).view(torch.uint8)
    padded = torch.nn.functional.pad(flat, (0, -flat.numel() % 8)) if flat.numel() % 8 else flat
    words = padded.view(torch.int64)
    odd = torch.arange(1, 2 * min(CHUNK_WORDS, max(1, words.numel())), 2, device=tensor.device) * MULTIPLIER
    total = torch.full((), flat.numel(), dtype=torch.int64, device=tensor.device)
    for part in words.split(CHUNK_WORDS):
        total = total * MULTIPLIER + (part * odd[: part.numel()]).sum()
    return int(total)


def probe_vector(size: int, device: torch.device) -> torch.Tensor:
    """The seeded float32 unit-norm vector of this size that every process draws alike."""
    generator = torch.Generator().manual_seed(size)
    vector = torch.randn(size, generator=generator)
    return (vector / vector.norm()).to(device)


def response(weight: torch.Tensor) -> torch.Tensor:
    """What a correct engine answers for this weight, float32: W x for a matrix [out, in], else the tensor itself."""
    if weight.dim() != 2:
        return weight.detach().float().clone()
    return weight.detach().float() @ probe_vector(weight.shape[1], weight.device)
