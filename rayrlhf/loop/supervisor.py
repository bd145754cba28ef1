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
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from rayrlhf.errors import ConfigError, RecoveryError, RoleFailedError, RunError
from rayrlhf.loop.census import Census
from rayrlhf.loop.roles import Roles, start_training
from rayrlhf.loop.scaling import read_counts
from rayrlhf.loop.watchdog import Watchdog
from rayrlhf.observability.events import EventLog
from rayrlhf.role_types import Worker
from rayrlhf.runtime.failures import Decision, Failure, FailureKind, FailurePolicy
from rayrlhf.runtime.interruption import Interruption
from rayrlhf.runtime.worker_group import Pending, WorkerGroup, failure_of, first_done
from rayrlhf.weight_sync.proof import SyncProof
from rayrlhf.weight_sync.push import SyncFailedError, WeightSync

T = TypeVar("T")
SLICE_S = 0.5
"""How often a wait looks up."""
BLAME_S = 5.0
"""How long the other ranks of a failed collective may take to say which of them died."""
HEALTH_S = 10.0
"""How long a healthy worker may take to say so."""
ATTEMPTS = 2
"""A call that fails this often on workers that are well fails because of what it was given."""


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
    policy: FailurePolicy
    start_timeout_s: float
    events: EventLog
    interruption: Interruption
    watchdog: Watchdog
    census: Census
    counts: Path | None = None
    on_look_up: Callable[[], None] = lambda: None
    _joining: dict[tuple[str, int], Pending[Any]] = field(default_factory=dict)
    _unproven: set[int] = field(default_factory=set)
    _lost_at: dict[tuple[str, int], float] = field(default_factory=dict)

    def finish(self, pending: Sequence[Pending[T]], wait: Wait) -> list[Pending[T]]:
        """Wait for calls, making those of failed workers again; returns the answered ones in order.

        Raises:
            TrainingLostError: a learner or critic rank is gone.
            DataLostError: what a call was given is gone.
            RecoveryError: the failure budget is spent.
            InterruptedRunError: the wait was given up.

        """
        calls = dict(enumerate(pending))
        waiting = dict(calls)
        attempts: Counter[int] = Counter()
        self.watchdog.begin(wait.phase)
        while waiting:
            self._look_up(wait)
            for index, failure in self._answered(waiting, wait):
                call = waiting.pop(index)
                if failure is None:
                    continue
                attempts[index] += 1
                again = self._again(call, failure, attempts[index], [call, *waiting.values()], wait)
                if again is not None:
                    calls[index] = waiting[index] = again
                elif wait.refused(call, failure):
                    del calls[index]
                else:
                    raise RecoveryError(f"{failure} (also on another worker, so the fault is in what it was given)")
        return list(calls.values())

    def workers(self, group: WorkerGroup[Any], wait: Wait) -> list[int]:
        """Ranks that take calls; waits for one where all are lost."""
        self._wait_for_a_worker(group, wait)
        return group.live

    def resize(self) -> None:
        """Add and remove workers as people have asked (`loop/scaling.py`)."""
        try:
            wanted = read_counts(self.counts) if self.counts else {}
        except (ConfigError, OSError) as error:
            self.events.record("scaling_refused", f"workers stay as they are: {error}")
            return
        for role, count in wanted.items():
            if (group := self.roles.find(role)) is not None:
                self._resize(group, count)

    def push(self, version: int) -> SyncProof:
        """The learner's weights to every rollout worker that is up, new ones included."""
        wait = Wait(f"weight sync of version {version}", self.start_timeout_s)
        self._look_up(wait)
        while True:
            ranks = sorted({*self.roles.rollout.live, *self._unproven})
            if not ranks:
                self._wait_for_a_worker(self.roles.rollout, wait)
            elif (proof := self._sync(version, ranks)) is not None:
                return proof

    def rebuild(self, failure: Failure, newest: Callable[[], Path | None]) -> Path | None:
        """New training groups with the state of the newest complete checkpoint; returns its folder."""
        started = time.monotonic()
        while True:
            self._decide(failure)
            folder = newest()
            for group in self.roles.training:
                group.rebuild()
            try:
                start_training(self.roles.training, folder, self.start_timeout_s)
            except RoleFailedError as error:
                failure = error.failure
                continue
            self.census.take()
            took_s = time.monotonic() - started
            where = folder.name if folder else "the beginning"
            self._recovered(failure.role, failure.rank, took_s, f"training goes on from {where}")
            return folder

    def _look_up(self, wait: Wait) -> None:
        """What happens beside the calls."""
        self.on_look_up()
        for key, ready in list(self._joining.items()):
            if first_done([ready], 0):
                self._join(*key, ready)
            elif time.monotonic() - ready.started > self.start_timeout_s:
                self._late(*key, ready)
        if wait.version is not None and self._unproven:
            self._sync(wait.version, sorted(self._unproven))
        if self.interruption.overdue or (wait.abandon and self.interruption.requested):
            raise self.interruption.error(f"in {wait.phase}")

    def _answered(self, waiting: dict[int, Pending[T]], wait: Wait) -> list[tuple[int, Failure | None]]:
        """Calls that have answered (None), failed, or are late; waits for at most a slice."""
        done = {id(call) for call in first_done([*waiting.values(), *self._joining.values()], SLICE_S)}
        found: list[tuple[int, Failure | None]] = []
        for index, call in waiting.items():
            if id(call) in done:
                found.append((index, failure_of(call, wait.phase)))
            elif time.monotonic() - call.started > wait.timeout_s:
                cause = f"no answer within {wait.timeout_s:.0f} s"
                found.append((index, Failure(FailureKind.HUNG, call.role, call.rank, call.call, wait.phase, cause)))
        late = any(failure is not None and failure.kind is FailureKind.HUNG for _, failure in found)
        self.watchdog.looked(list(waiting.values()), answered=bool(found), late=late)
        return found

    def _again(
        self, call: Pending[T], failure: Failure, attempt: int, others: Sequence[Pending[T]], wait: Wait
    ) -> Pending[T] | None:
        """The failed call, made once more; None when that would not help."""
        if failure.trains:
            raise TrainingLostError(self._blame(failure, others, wait.phase))
        if failure.kind is FailureKind.LOST:
            raise DataLostError(str(failure))
        group = self.roles.of(failure.role)
        if group.is_current(call):
            if failure.kind is FailureKind.RAISED and self._is_well(group, call.rank):
                self.policy.require_room(failure)
                if attempt >= ATTEMPTS:
                    return None
            else:
                self._restart(failure)
        self._wait_for_a_worker(group, wait)
        return group.again(call)

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

    def _decide(self, failure: Failure) -> None:
        """Count the failure; stop the run when its budget is spent."""
        decision = self.policy.decide(failure)
        self.events.record(
            "failure", f"{failure}: {decision.value}",
            kind=failure.kind.name.lower(), role=failure.role, rank=failure.rank, phase=failure.phase,
            decision=decision.value,
        )  # fmt: skip
        if decision is Decision.STOP:
            raise self.policy.error(failure)
        self.policy.back_off(failure.role)

    def _restart(self, failure: Failure) -> None:
        """End what is left of a worker and create its successor, which comes up while the run goes on."""
        key = failure.role, failure.rank
        self._lost_at.setdefault(key, time.monotonic())
        group = self.roles.of(failure.role)
        group.lose(failure.rank)
        self._unproven.discard(failure.rank) if failure.role == "rollout" else None
        self._joining.pop(key, None)
        self._decide(failure)
        self._joining[key] = group.replace(failure.rank)

    def _resize(self, group: WorkerGroup[Any], count: int) -> None:
        role = group.role
        coming = {rank for joining, rank in self._joining if joining == role} | (
            self._unproven if role == "rollout" else set()
        )
        ranks = sorted({*group.live, *coming})
        for rank in range(max(ranks) + 1, max(ranks) + 1 + count - len(ranks)):
            self._joining[role, rank] = group.replace(rank)
            self.events.record("worker_added", f"{role} {rank} comes up", role=role, rank=rank)
        for rank in sorted(ranks, key=lambda rank: (rank in group.live, -rank))[: len(ranks) - count]:
            self._forget(role, rank)
            group.retire(rank)
            self.events.record("worker_removed", f"{role} {rank} ended, as asked", role=role, rank=rank)

    def _forget(self, role: str, rank: int) -> None:
        self._joining.pop((role, rank), None)
        self._lost_at.pop((role, rank), None)
        self.census.forget(role, rank)
        if role == "rollout":
            self._unproven.discard(rank)

    def _late(self, role: str, rank: int, ready: Pending[Any]) -> None:
        """A worker is not up in time: it hangs, or the cluster has no room for it and the others go on without."""
        group = self.roles.of(role)
        if group.live and not group.has_room(rank):
            self.events.record("no_room", f"{role} {rank} waits for room on the cluster", role=role, rank=rank)
            self._joining[role, rank] = replace(ready, started=time.monotonic())
            return
        cause = f"did not start within {self.start_timeout_s:.0f} s"
        cause += "" if group.has_room(rank) else f": the cluster has no room for {role}.cpus and {role}.gpus"
        self._restart(Failure(FailureKind.HUNG, role, rank, "start", "start", cause))

    def _join(self, role: str, rank: int, ready: Pending[Any]) -> None:
        """A worker's constructor has ended."""
        del self._joining[role, rank]
        if (failure := failure_of(ready, "start")) is not None:
            self._restart(failure)
        elif role == "rollout":
            self._unproven.add(rank)
        else:
            self._admit(role, rank)

    def _admit(self, role: str, rank: int) -> None:
        group = self.roles.of(role)
        if rank in group.live:
            return
        group.admit(rank)
        self.census.take()
        if (lost_at := self._lost_at.pop((role, rank), None)) is not None:
            self._recovered(role, rank, time.monotonic() - lost_at, "back")
        else:
            self.events.record("worker_joined", f"{role} {rank} takes part", role=role, rank=rank)

    def _recovered(self, role: str, rank: int, took_s: float, how: str) -> None:
        message = f"{role} {rank} recovered after {took_s:.1f} s: {how}"
        self.events.record("recovered", message, role=role, rank=rank, took_s=round(took_s, 2))

    def _wait_for_a_worker(self, group: WorkerGroup[Any], wait: Wait) -> None:
        """Return when the group takes calls, or when a rollout worker waits for the weights that come next."""
        while not group.live and not (group.role == "rollout" and wait.version is None and self._unproven):
            first_done([ready for (role, _), ready in self._joining.items() if role == group.role], SLICE_S)
            self._look_up(wait)

    def _sync(self, version: int, ranks: Sequence[int]) -> SyncProof | None:
        """One push; None when workers were lost in it (the others are whole again after the next)."""
        try:
            proof = self.sync.push(version, ranks)
        except SyncFailedError as error:
            self.events.record("sync_failed", str(error), version=version, lost=sorted(error.lost))
            for rank, cause in error.lost.items():
                self._restart(_sync_failure(FailureKind.DIED, rank, cause))
            if not error.lost:
                self.policy.require_room(_sync_failure(FailureKind.RAISED, -1, str(error)))
            return None
        except RoleFailedError as error:
            raise TrainingLostError(error.failure) from error
        for rank in ranks:
            self._unproven.discard(rank)
            self._admit("rollout", rank)
        return proof


def _sync_failure(kind: FailureKind, rank: int, cause: str) -> Failure:
    return Failure(kind, "rollout", rank, "receive", "weight sync", cause)
