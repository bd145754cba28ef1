"""Keeps the roles of a run alive.

    finish(calls) ──▶ all answered
         │ one fails: what failed? ──▶ policy ──▶ restart the worker, make its calls again elsewhere
         │                                   ├──▶ TrainingLostError: the loop goes back to the checkpoint (`rebuild`)
         │                                   └──▶ RecoveryError: the run stops
         └ meanwhile: replacements come up, saves finish, stalls are reported, an interruption is noticed

A new rollout worker takes prompts only after it was given the current weights and has proven it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from rayrlhf.errors import RecoveryError, RoleFailedError, RunError
from rayrlhf.loop.roles import Roles, start_training
from rayrlhf.loop.watchdog import Watchdog
from rayrlhf.loop.workforce import Workforce
from rayrlhf.role_types import Worker
from rayrlhf.runtime.failures import Failure, FailureKind
from rayrlhf.runtime.interruption import Interruption
from rayrlhf.runtime.worker_group import SLICE_S, Pending, WorkerGroup, failure_of, first_done
from rayrlhf.weight_sync.proof import SyncProof
from rayrlhf.weight_sync.push import SyncFailedError, WeightSync

T = TypeVar("T")
BLAME_S = 5.0
"""How long the other ranks of a failed collective may take to say which of them died."""
HEALTH_S = 10.0
"""How long a healthy worker may take to say so."""
ATTEMPTS = 2
"""A call that raises on so many workers that are well fails because of what it was given."""


class TrainingLostError(RunError):
    """A learner or critic rank is gone, and with it its group's state."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(str(failure))
        self.failure = failure


class DataLostError(RunError):
    """Objects of the step under way went away with their node."""


@dataclass(frozen=True, slots=True)
class Wait:
    """What is waited for, and what may happen meanwhile.

    `version`: the learner is idle and has this version, so a new rollout worker can be given it. `abandon`: an
    interruption ends the wait at once. `refused` hears of a call that fails on healthy workers too; if it takes that,
    the call is left out.
    """

    phase: str
    timeout_s: float
    version: int | None = None
    abandon: bool = False
    refused: Callable[[Pending[Any], Failure], bool] = lambda *_: False


@dataclass(slots=True)
class Supervisor:
    """Waits for calls, and puts right what fails."""

    roles: Roles
    sync: WeightSync
    workforce: Workforce
    interruption: Interruption
    watchdog: Watchdog
    on_look_up: Callable[[], None] = lambda: None

    def finish(self, calls: list[Pending[T]], wait: Wait) -> list[Pending[T]]:
        """Wait for calls, making those of failed workers again, in place; returns the same list, all answered.

        Raises:
            TrainingLostError: a learner or critic rank is gone.
            DataLostError: what a call was given is gone.
            RecoveryError: the failure budget is spent.
            InterruptedRunError: the wait was given up.

        """
        waiting = dict(enumerate(calls))
        raised: dict[int, set[tuple[int, int]]] = {}
        left_out: set[int] = set()
        began = time.monotonic()
        self.watchdog.begin(wait.phase)
        while waiting:
            self._look_up(wait)
            for index, failure in self._answered(waiting, wait, began):
                call = waiting.pop(index)
                if failure is None:
                    self._replace_sick(call, raised.get(index, ()), wait)
                    continue
                others = [call, *waiting.values()]
                again = self._again(call, failure, raised.setdefault(index, set()), others, wait)
                if again is not None:
                    calls[index] = waiting[index] = again
                elif wait.refused(call, failure):
                    left_out.add(index)
                else:
                    raise RecoveryError(f"{failure} (on two workers, so the fault is in what they were given)")
        calls[:] = [call for index, call in enumerate(calls) if index not in left_out]
        return calls

    def workers(self, group: WorkerGroup[Any], wait: Wait) -> list[int]:
        """Ranks that take calls; waits for one where all are lost."""
        self._wait_for_a_worker(group, wait)
        return group.live

    def push(self, version: int) -> SyncProof:
        """The learner's weights to every rollout worker that is up, new ones included."""
        wait = Wait(f"weight sync of version {version}", self.workforce.start_timeout_s)
        self._look_up(wait)
        while True:
            ranks = sorted({*self.roles.rollout.live, *self.workforce.unproven})
            if not ranks:
                self._wait_for_a_worker(self.roles.rollout, wait)
            elif (proof := self._sync(version, ranks)) is not None:
                return proof

    def rebuild(self, failure: Failure, newest: Callable[[], Path | None]) -> Path | None:
        """New training groups with the state of the newest complete checkpoint; returns its folder."""
        started = time.monotonic()
        while True:
            self.workforce.count(failure)
            self.workforce.policy.back_off(failure.role)
            folder = newest()
            for group in self.roles.training:
                group.rebuild()
            try:
                start_training(self.roles.training, folder, self.workforce.start_timeout_s)
            except RoleFailedError as error:
                failure = error.failure
                continue
            self.workforce.census.take()
            took_s = time.monotonic() - started
            where = folder.name if folder else "the beginning"
            self.workforce.recovered(failure.role, failure.rank, took_s, f"training goes on from {where}")
            return folder

    def _look_up(self, wait: Wait) -> None:
        """What happens beside the calls."""
        self.on_look_up()
        self.workforce.look_up()
        if wait.version is not None and self.workforce.unproven:
            self._sync(wait.version, sorted(self.workforce.unproven))
        if wait.abandon and self.interruption.requested:
            raise self.interruption.error(f"in {wait.phase}")

    def _answered(self, waiting: dict[int, Pending[T]], wait: Wait, began: float) -> list[tuple[int, Failure | None]]:
        """Calls that have answered (None), failed, or are late; waits for at most a slice.

        Calls of later steps were made long before they are waited for, so lateness counts from when the wait `began`.
        """
        done = {id(call) for call in first_done([*waiting.values(), *self.workforce.joining()], SLICE_S)}
        found: list[tuple[int, Failure | None]] = []
        for index, call in waiting.items():
            if id(call) in done:
                found.append((index, failure_of(call, wait.phase)))
            elif time.monotonic() - max(call.started, began) > wait.timeout_s:
                cause = f"no answer within {wait.timeout_s:.0f} s"
                found.append((index, Failure(FailureKind.HUNG, call.role, call.rank, call.call, wait.phase, cause)))
        late = any(failure is not None and failure.kind is FailureKind.HUNG for _, failure in found)
        self.watchdog.looked(list(waiting.values()), answered=bool(found), late=late)
        return found

    def _again(
        self,
        call: Pending[T],
        failure: Failure,
        raised: set[tuple[int, int]],
        others: Sequence[Pending[T]],
        wait: Wait,
    ) -> Pending[T] | None:
        """The failed call, made once more; None when it has raised on two well workers, which `raised` notes."""
        trains = [other for other in others if self.roles.of(other.role) in self.roles.training]
        if failure.trains or (failure.kind is FailureKind.LOST and trains):
            raise TrainingLostError(self._blame(failure, others, wait.phase))
        if failure.kind is FailureKind.LOST:
            self.workforce.count(failure)
            raise DataLostError(str(failure))
        group = self.roles.of(failure.role)
        if group.is_current(call):
            well = failure.kind is FailureKind.RAISED and self._is_well(group, call.rank)
            if well:
                self.workforce.note_raised(failure)
                raised.add((call.rank, call.life))
                if len(raised) == ATTEMPTS:
                    return None
            if not well or group.live == [call.rank]:
                self.workforce.restart(failure)
        self._wait_for_a_worker(group, wait)
        return group.again(call, elsewhere=failure.kind is FailureKind.RAISED)

    def _replace_sick(self, answered: Pending[Any], raised: Iterable[tuple[int, int]], wait: Wait) -> None:
        """A worker that raised what another one could answer is not well, whatever it says."""
        group = self.roles.of(answered.role)
        for rank, life in raised:
            if rank in group.live and group.members([rank]) == ((rank, life),):
                cause = f"raised, and {answered.role} {answered.rank} could answer"
                self.workforce.restart(
                    Failure(FailureKind.RAISED, answered.role, rank, answered.call, wait.phase, cause)
                )

    def _blame(self, failure: Failure, others: Sequence[Pending[Any]], phase: str) -> Failure:
        """Ranks of a collective fail together; the one that died is the one to name."""
        waiting = [call for call in others if self.roles.of(call.role) in self.roles.training]
        deadline = time.monotonic() + BLAME_S
        while failure.kind is FailureKind.RAISED and waiting and time.monotonic() < deadline:
            done = first_done(waiting, SLICE_S)
            waiting = [call for call in waiting if call not in done]
            found = [f for call in done if (f := failure_of(call, phase)) is not None]
            failure = next((f for f in found if f.kind is FailureKind.DIED), failure)
        return failure

    def _is_well(self, group: WorkerGroup[Any], rank: int) -> bool:
        ping = group.start_on(rank, Worker.vitals)
        return bool(first_done([ping], HEALTH_S)) and failure_of(ping, "health") is None

    def _wait_for_a_worker(self, group: WorkerGroup[Any], wait: Wait) -> None:
        """Return when the group takes calls, or when a rollout worker waits for the weights that come next."""
        while not group.live and not (group.role == "rollout" and wait.version is None and self.workforce.unproven):
            first_done(self.workforce.joining(group.role), SLICE_S)
            self._look_up(wait)

    def _sync(self, version: int, ranks: Sequence[int]) -> SyncProof | None:
        """One push; None when workers were lost in it (the others are whole again after the next)."""
        try:
            proof = self.sync.push(version, ranks)
        except SyncFailedError as error:
            self.workforce.events.record("sync_failed", str(error), version=version, lost=sorted(error.lost))
            for rank, cause in error.lost.items():
                self.workforce.restart(_sync_failure(FailureKind.DIED, rank, cause))
            if not error.lost:
                self.workforce.count(_sync_failure(FailureKind.RAISED, -1, str(error)))
            return None
        except RoleFailedError as error:
            raise TrainingLostError(error.failure) from error
        for rank in ranks:
            self.workforce.admit("rollout", rank)
        return proof


def _sync_failure(kind: FailureKind, rank: int, cause: str) -> Failure:
    return Failure(kind, "rollout", rank, "receive", "weight sync", cause)
