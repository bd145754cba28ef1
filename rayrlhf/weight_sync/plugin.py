"""What every vLLM process runs first (entry point `vllm.general_plugins`): it dies with its parent, shows its stacks on
request, and knows our weight-transfer backend. Imports little.
"""

from __future__ import annotations

import multiprocessing

from rayrlhf.runtime.processes import adopt

BACKEND = "rayrlhf"


def register() -> None:
    """Add the backend to vLLM's factory, once; vLLM may call plugins more than once in a process."""
    if multiprocessing.parent_process() is not None:
        adopt()
    from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory

    if BACKEND not in WeightTransferEngineFactory._registry:
        WeightTransferEngineFactory.register_engine(
            BACKEND, "rayrlhf.weight_sync.receiver", "BroadcastWeightTransferEngine"
        )
