"""Ray Train's ranks meet on the interface that Ray knows their node by, as the actors of an RL run do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ray.train.torch import TorchConfig
from ray.train.torch.config import _TorchBackend

from rayrlhf.runtime.network import use_node_interface


class _NodeBackend(_TorchBackend):
    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        worker_group.execute(use_node_interface)
        super().on_start(worker_group, backend_config)


@dataclass
class NodeTorchConfig(TorchConfig):
    """Ray's, with that first."""

    @property
    def backend_cls(self) -> type:
        """What starts the process group."""
        return _NodeBackend
