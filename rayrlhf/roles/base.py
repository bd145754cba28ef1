"""What every role's actor has: threads of its own for pings and for writing, and processes that die with it."""

from __future__ import annotations

from typing import ClassVar

import ray

from rayrlhf.role_types import Vitals
from rayrlhf.runtime import processes
from rayrlhf.runtime.environment import quiet_process, set_variables
from rayrlhf.runtime.network import use_node_interface


class Role:
    """A threaded actor. Methods run one after the other, except pings and writing."""

    CONCURRENCY: ClassVar = {"health": 1, "io": 1}

    def __init__(self, threads: int) -> None:
        processes.adopt()
        set_variables(quiet_process(threads))
        use_node_interface()
        import torch

        torch.set_num_threads(threads)

    @ray.method(concurrency_group="health")
    def vitals(self) -> Vitals:
        """Where this process is, and its memory."""
        return processes.vitals()
