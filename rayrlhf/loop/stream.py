"""The rollout stream: prompts go out, whole groups come back, in order.

A step's prompts are admitted when the policy is at most `max_staleness` versions behind what it will be when they are
learned from. With 0 that is after the last weight sync: the synchronous case. Admission is by step and consumption in
order, so short answers have no advantage.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rayrlhf.config.sections import RolloutConfig
from rayrlhf.data.prompts import PromptSet
from rayrlhf.loop.progress import sample_seed
from rayrlhf.role_types import GenerationRequest, GroupInfo, RolloutWorker
from rayrlhf.runtime.worker_group import Pending, WorkerGroup, gather
from rayrlhf.types import Trajectory


@dataclass(frozen=True, slots=True)
class Group:
    """A finished group: what the driver knows, and a reference to its trajectories."""

    info: GroupInfo
    trajectories: Any


class RolloutStream:
    """Keeps the rollout workers busy with the prompts of the admitted steps."""

    def __init__(
        self, workers: WorkerGroup[RolloutWorker], prompts: PromptSet, config: RolloutConfig, seed: int, steps: int
    ) -> None:
        self._workers, self._prompts, self._config = workers, prompts, config
        self._seed, self._steps = seed, steps
        self._running: dict[int, list[Pending[Any]]] = {}

    def next(self, step: int, timeout_s: float) -> list[Group]:
        """All groups of `step` (0-based, the policy's version now), in the order of their ids."""
        for admitted in range(step, min(step + self._config.max_staleness + 1, self._steps)):
            if admitted not in self._running:
                self._running[admitted] = self._submit(admitted)
        pending = self._running.pop(step)
        infos = gather(pending, timeout_s, f"rollout of step {step + 1}")
        return [Group(info, p.data) for info, p in zip(infos, pending, strict=True)]

    def _submit(self, step: int) -> list[Pending[tuple[GroupInfo, list[Trajectory]]]]:
        prompts = self._prompts.batch(self._seed, step, self._config.prompts_per_step)
        pending = []
        for position, prompt in enumerate(prompts):
            group_id = f"{step + 1:06d}-{position:05d}"
            seeds = tuple(sample_seed(self._seed, group_id, k) for k in range(self._config.samples_per_prompt))
            request = GenerationRequest(step + 1, group_id, prompt, seeds)
            pending.append(self._workers.start_on(position % len(self._workers), RolloutWorker.generate, request))
        return pending
