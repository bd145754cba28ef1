"""Does a vLLM layer compute with the weight it was sent? Asks the layer's own kernel, packed copies and all.

Handles tensor parallelism: a column-parallel layer holds a slice of the outputs, a row-parallel one a slice of the
inputs (whose partial answer only the sum over ranks completes), an embedding a slice of the vocabulary.
"""

from __future__ import annotations

import torch
from torch import nn
from vllm.distributed import tensor_model_parallel_all_reduce
from vllm.model_executor.layers.linear import LinearBase, RowParallelLinear
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead, VocabParallelEmbedding

from rayrlhf.weight_sync.digests import probe_vector


@torch.inference_mode()
def layer_deviation(layer: nn.Module, expected: list[torch.Tensor], dtype: torch.dtype) -> float:
    """Largest |answer - expected| over the largest |expected|, on this rank's part of the layer."""
    if isinstance(layer, VocabParallelEmbedding):
        wanted = expected[0][layer.shard_indices.org_vocab_start_index : layer.shard_indices.org_vocab_end_index]
        answer = _vocabulary_answer(layer, dtype)[: len(wanted)]
    elif isinstance(layer, LinearBase):
        answer, wanted = _linear_answer(layer, expected, dtype)
    else:
        answer, wanted = layer.get_parameter("weight").float().flatten(), expected[0].flatten()
    if answer.shape != wanted.shape:
        return float("inf")
    scale = float(wanted.abs().max()) or 1.0
    return float((answer - wanted).abs().max()) / scale


def _vocabulary_answer(layer: VocabParallelEmbedding, dtype: torch.dtype) -> torch.Tensor:
    probe = probe_vector(layer.embedding_dim, torch.device("cpu"))
    if isinstance(layer, ParallelLMHead):
        device = next(iter(layer.parameters())).device
        return layer.quant_method.apply(layer, probe.to(device, dtype).unsqueeze(0)).float().squeeze(0)
    return layer.weight.float() @ probe.to(layer.weight.device)


def _linear_answer(
    layer: LinearBase, expected: list[torch.Tensor], dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    device = next(iter(layer.parameters())).device
    probe = probe_vector(layer.input_size, torch.device("cpu")).to(device, dtype)
    rank, size = layer.tp_rank, layer.tp_size
    if isinstance(layer, RowParallelLinear):
        part = layer.input_size_per_partition
        answer = layer.quant_method.apply(layer, probe[rank * part : (rank + 1) * part].unsqueeze(0)).float()
        if size > 1:
            answer = tensor_model_parallel_all_reduce(answer)
        return answer.squeeze(0), expected[0]
    answer = layer.quant_method.apply(layer, probe.unsqueeze(0)).float().squeeze(0)
    parts = layer.output_partition_sizes
    if len(expected) == 1 < len(parts) and sum(parts) * size == expected[0].numel():
        expected = list(expected[0].split([part * size for part in parts]))  # fused in the checkpoint already
    if len(expected) != len(parts):
        return answer, answer  # another layout: digests and the probe's log-probabilities have to do
    pieces = []
    for whole, part in zip(expected, parts, strict=True):
        replicas = max(1, part * size // whole.numel())  # key and value heads, when there are fewer than ranks
        pieces.append(whole[rank // replicas * part :][:part])
    return answer, torch.cat(pieces)
