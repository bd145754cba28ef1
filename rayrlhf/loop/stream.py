"""The rollout stream: prompts go out, whole groups come back, in order.

A step's prompts are admitted when the policy is at most `max_staleness` versions behind what it will be when they are
learned from. With 0 that is after the last weight sync: the synchronous case. Admission is by step and consumption in
order, so short answers have no advantage. Steps that the journal has are read from it, not generated again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from rayrlhf.config.sections import RolloutConfig
from rayrlhf.data.journal import Journal
from rayrlhf.data.prompts import PromptSet
from rayrlhf.errors import RecoveryError
from rayrlhf.loop.progress import sample_seed
from rayrlhf.loop.supervisor import Supervisor, Wait
from rayrlhf.role_types import GenerationRequest, GroupInfo, RolloutWorker
from rayrlhf.runtime.failures import Failure
from rayrlhf.runtime.worker_group import Pending, WorkerGroup, gather
from rayrlhf.types import Trajectory


@dataclass(frozen=True, slots=True)
class Group:
    """A finished group: what the driver knows, and a reference to its trajectories."""

    info: GroupInfo
    trajectories: Any


@dataclass(frozen=True, slots=True)
class RolloutPlan:
    """Which prompts a run uses, and how often."""

    prompts: PromptSet
    config: RolloutConfig
    seed: int
    steps: int
    max_refused: int


class RolloutStream:
    """Keeps the rollout workers busy with the prompts of the admitted steps."""

    def __init__(self, workers: WorkerGroup[RolloutWorker], plan: RolloutPlan, journal: Journal) -> None:
        self._workers, self._plan, self._journal = workers, plan, journal
        self._running: dict[int, list[Pending[Any]]] = {}
        self._refused = journal.rejected()
        self._journalled = set(journal.committed_steps())
        self._begun = {*self._journalled, *journal.open_steps()}

    def generates(self, step: int) -> bool:
        """Whether serving `step` (0-based) may need the engines: the journal has not got all that will be admitted."""
        return any(admitted + 1 not in self._journalled for admitted in self._admitted(step))

    def is_journalled(self, step: int) -> bool:
        """Whether `step` (0-based) was committed before, by this process or an earlier one."""
        return step + 1 in self._journalled

    def next(self, step: int, supervisor: Supervisor, wait: Wait) -> list[Group]:
        """All groups of `step` (0-based, the policy's version now), in the order of their ids."""
        for admitted in self._admitted(step):
            if admitted not in self._running:
                self._running[admitted] = self._submit(admitted, supervisor.workers(self._workers, wait))
        calls = self._running[step]
        infos = self._finish(calls, supervisor, wait)
        if not self.is_journalled(step):
            supervisor.workers(self._workers, wait)
            self._renew_old(step, calls, infos)
            infos = self._finish(calls, supervisor, wait)
        return [Group(info, call.data) for info, call in zip(infos, calls, strict=True)]

    def _finish(self, calls: list[Pending[Any]], supervisor: Supervisor, wait: Wait) -> list[GroupInfo]:
        supervisor.finish(calls, replace(wait, refused=self._refuse))
        return gather(calls, wait.timeout_s, wait.phase)

    def _renew_old(self, step: int, calls: list[Pending[Any]], infos: Sequence[GroupInfo]) -> None:
        """Ask again for groups older than `max_staleness` allows: training went back while they were written."""
        for index, info in enumerate(infos):
            if info.oldest_version < step - self._plan.config.max_staleness:
                call = calls[index]
                (request,) = call.arguments
                again = self._workers.again(replace(call, arguments=(replace(request, look=False),)))
                calls[index] = replace(again, arguments=call.arguments)

    def in_flight(self) -> tuple[str, ...]:
        """Groups that were asked for and belong to steps that are not committed."""
        return tuple(call.arguments[0].group_id for calls in self._running.values() for call in calls)

    def done(self, step: int) -> None:
        """The step is learned: its trajectories may go."""
        self._running.pop(step, None)
        self._journalled.add(step + 1)

    def forget(self) -> None:
        """Objects are lost; what is durable will be read from the journal, and the rest asked for again."""
        self._running.clear()

    def _admitted(self, step: int) -> range:
        return range(step, min(step + self._plan.config.max_staleness + 1, self._plan.steps))

    def _submit(self, step: int, live: Sequence[int]) -> list[Pending[tuple[GroupInfo, list[Trajectory]]]]:
        plan, pending = self._plan, []
        for position, prompt in enumerate(plan.prompts.batch(plan.seed, step, plan.config.prompts_per_step)):
            group_id = f"{step + 1:06d}-{position:05d}"
            if group_id in self._refused:
                continue
            seeds = tuple(sample_seed(plan.seed, group_id, k) for k in range(plan.config.samples_per_prompt))
            request = GenerationRequest(step + 1, group_id, prompt, seeds, look=step + 1 in self._begun)
            call = self._workers.start_on(live[position % len(live)], RolloutWorker.generate, request)
            pending.append(replace(call, arguments=(replace(request, look=True),)))
        self._begun.add(step + 1)
        return pending

    def _refuse(self, call: Pending[Any], failure: Failure) -> bool:
        """A prompt that no worker can answer is left out of the run and noted in the journal."""
        (request,) = call.arguments
        if len(self._refused) >= self._plan.max_refused:
            raise RecoveryError(
                f"{len(self._refused) + 1} prompts could not be answered, more than recovery.max_bad_prompts = "
                f"{self._plan.max_refused}; the last one: {request.prompt.id}: {failure}"
            )
        self._refused.add(request.group_id)
        self._journal.reject(request.group_id, request.prompt.id, failure.cause)
        return True
