"""Registers our weight-transfer backend in every vLLM process (entry point `vllm.general_plugins`). Imports little."""

from __future__ import annotations

BACKEND = "rayrlhf"


def register() -> None:
    """Add the backend to vLLM's factory, once; vLLM may call plugins more than once in a process."""
    from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory

    if BACKEND not in WeightTransferEngineFactory._registry:
        WeightTransferEngineFactory.register_engine(
            BACKEND, "rayrlhf.weight_sync.receiver", "BroadcastWeightTransferEngine"
        )
