"""Another checkpoint into a running engine, from its files: what a served policy changes its weights with.

Runs inside each vLLM worker process. Whoever calls it has seen to it that nothing is being generated.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from vllm.config import set_current_vllm_config

from rayrlhf.weight_sync.loading import LayerwiseLoad


class ReloadExtension:
    """Methods that vLLM mixes into its worker class, reached through `collective_rpc`."""

    model_runner: Any
    vllm_config: Any

    def reload_policy(self, folder: str) -> float:
        """Load the safetensors of a folder; returns the largest relative deviation of a layer from its new weights.

        After an error the model may hold parts of two policies; it must not generate until a reload went through.
        """
        load = LayerwiseLoad(self.model_runner.get_model(), self.model_runner.model_config)
        with set_current_vllm_config(self.vllm_config):
            load.begin()
            try:
                for name, tensor in _tensors(Path(folder)):
                    load.add(name, tensor)
            except BaseException:
                load.abandon()
                raise
            load.finish()
            found = load.deviations().values()
            return max(found) if found and all(map(math.isfinite, found)) else math.inf


def _tensors(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as opened:
            for name in opened.keys():  # noqa: SIM118 (it is not a mapping)
                yield name, opened.get_tensor(name)
