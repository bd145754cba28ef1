"""New weights into a model that vLLM is running, and whether its layers then compute with them.

    begin: layers on meta ──▶ add: digest, expected response, load ──▶ finish: process, packed head
          ──▶ deviations: each layer's own kernel answers the probe vector as the weight that was loaded does

Runs inside a vLLM worker process, whether the weights come from a learner or from a file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead, VocabParallelEmbedding
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload
from vllm.model_executor.model_loader.reload.layerwise import _place_kernel_tensors, get_layerwise_info

from rayrlhf.weight_sync.digests import digest, response
from rayrlhf.weight_sync.layer_proof import layer_deviation


class LayerwiseLoad:
    """One replacement of all weights; the model must not compute between `begin` and `finish`."""

    def __init__(self, model: Any, model_config: Any) -> None:
        self._model = model
        self._config = model_config
        self.digests: dict[str, int] = {}
        """Of the tensors as they came."""
        self._expected: dict[str, torch.Tensor] = {}

    def begin(self) -> None:
        """Put every layer on meta and wait for its weights."""
        initialize_layerwise_reload(self._model)

    def add(self, name: str, tensor: torch.Tensor) -> None:
        """Load one tensor, named as in a Hugging Face checkpoint."""
        self.digests[name] = digest(tensor)
        self._expected[name] = response(tensor)
        self._model.load_weights([(name, tensor)])

    def finish(self) -> None:
        """Process what was loaded, then the head: a reload leaves a tied head's packed copy stale."""
        finalize_layerwise_reload(self._model, self._config)
        if getattr(self._config.hf_config, "tie_word_embeddings", False):
            for layer in self._model.modules():
                if isinstance(layer, ParallelLMHead):
                    layer.quant_method.process_weights_after_loading(layer)

    def abandon(self) -> None:
        """Put back what was not replaced, so that the next load can start from any state.

        The model may hold parts of two versions now; it must not compute until a whole load has gone through.
        """
        for layer in self._model.modules():
            info = get_layerwise_info(layer)
            if info.can_load() and info.kernel_tensors is not None:
                _place_kernel_tensors(layer, info)
            info.reset()

    def deviations(self) -> dict[str, float]:
        """Largest relative deviation of each layer's own answer from that of the weights that were loaded."""
        stacked = getattr(self._model, "packed_modules_mapping", {}) or {}
        found: dict[str, float] = {}
        for path, layer in self._model.named_modules():
            sources = _sources(path, layer, stacked, self._expected)
            if sources is not None:
                found[path] = layer_deviation(layer, sources, self._config.dtype)
        return found


def _sources(
    path: str, layer: nn.Module, stacked: Mapping[str, Sequence[str]], expected: Mapping[str, torch.Tensor]
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
