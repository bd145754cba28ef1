"""Workers that come and go while the run goes on: successors of lost ones, additions, removals.

restart(failure) ──▶ create ──▶ its constructor ends ──▶ admitted: takes calls
                        ▲                          └──▶ rollout: `unproven`, until a push has given it the weights
resize() ───────────────┘                                and proven it; then the supervisor admits it
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rayrlhf.errors import ConfigError
from rayrlhf.loop.census import Census
from rayrlhf.loop.roles import Roles
from rayrlhf.loop.scaling import read_counts
from rayrlhf.observability.events import EventLog
from rayrlhf.runtime.failures import FULL_DISK, Decision, Failure, FailureKind, FailurePolicy
from rayrlhf.runtime.worker_group import Pending, WorkerGroup, failure_of, first_done


@dataclass(slots=True)
class Workforce:
    """Creates, admits and ends workers of the roles that only compute."""

    roles: Roles
    policy: FailurePolicy
    events: EventLog
    census: Census
    start_timeout_s: float
    counts: Path | None = None
    """Where people write how many workers they want (`loop/scaling.py`)."""
    unproven: set[int] = field(default_factory=set)
    """Rollout workers that are up and have not got the weights."""
    _joining: dict[tuple[str, int], Pending[Any]] = field(default_factory=dict)
    _lost_at: dict[tuple[str, int], float] = field(default_factory=dict)

    def joining(self, role: str | None = None) -> list[Pending[Any]]:
        """Constructors under way, of one role or of all."""
        return [ready for ready in self._joining.values() if role in (None, ready.role)]

    def count(self, failure: Failure) -> None:
        """Note a failure and count it; stop the run when its budget is spent.

        Raises:
            RecoveryError: who failed how often, and why.

        """
        decision = self.policy.decide(failure)
        self._note(failure, decision.value)
        if decision is Decision.STOP:
            raise self.policy.error(failure)

    def note_raised(self, failure: Failure) -> None:
        """A worker that is well raised: another one will be asked. A full disk stops the run, which others share."""
        if failure.os_errno in FULL_DISK:
            self.count(failure)
        self._note(failure, "ask another")

    def _note(self, failure: Failure, decision: str) -> None:
        self.events.record(
            "failure", f"{failure}: {decision}",
            kind=failure.kind.name.lower(), role=failure.role, rank=failure.rank, phase=failure.phase,
            decision=decision,
        )  # fmt: skip

    def restart(self, failure: Failure) -> None:
        """End what is left of a worker and create its successor, which comes up while the run goes on."""
        role, rank = failure.role, failure.rank
        self._lost_at.setdefault((role, rank), time.monotonic())
        group = self.roles.of(role)
        group.lose(rank)
        self._leave(role, rank)
        self.count(failure)
        self.policy.back_off(role)
        self._joining[role, rank] = group.replace(rank)

    def look_up(self) -> None:
        """Take in who has come up, and see to who is late."""
        for (role, rank), ready in list(self._joining.items()):
            if first_done([ready], 0):
                self._join(role, rank, ready)
            elif time.monotonic() - ready.started > self.start_timeout_s:
                self._late(role, rank, ready)

    def admit(self, role: str, rank: int) -> None:
        """Let a worker take calls, unless it does."""
        if role == "rollout":
            self.unproven.discard(rank)
        group = self.roles.of(role)
        if rank in group.live:
            return
        group.admit(rank)
        self.census.take()
        if (lost_at := self._lost_at.pop((role, rank), None)) is not None:
            self.recovered(role, rank, time.monotonic() - lost_at, "back")
        else:
            self.events.record("worker_joined", f"{role} {rank} takes part", role=role, rank=rank)

    def recovered(self, role: str, rank: int, took_s: float, how: str) -> None:
        """Note that what was lost is there again."""
        message = f"{role} {rank} recovered after {took_s:.1f} s: {how}"
        self.events.record("recovered", message, role=role, rank=rank, took_s=round(took_s, 2))

    def resize(self) -> None:
        """Add and remove workers as people have asked."""
        try:
            wanted = read_counts(self.counts) if self.counts else {}
        except (ConfigError, OSError) as error:
            self.events.record("scaling_refused", f"workers stay as they are: {error}")
            return
        for role, count in wanted.items():
            if (group := self.roles.find(role)) is not None:
                self._resize(group, count)

    def _resize(self, group: WorkerGroup[Any], count: int) -> None:
        role = group.role
        coming = {ready.rank for ready in self.joining(role)} | (self.unproven if role == "rollout" else set())
        ranks = sorted({*group.live, *coming})
        next_rank = max(ranks) + 1
        for rank in range(next_rank, next_rank + count - len(ranks)):
            self._joining[role, rank] = group.replace(rank)
            self.events.record("worker_added", f"{role} {rank} comes up", role=role, rank=rank)
        for rank in sorted(ranks, key=lambda rank: (rank in group.live, -rank))[: len(ranks) - count]:
            self._leave(role, rank)
            self._lost_at.pop((role, rank), None)
            self.census.forget(role, rank)
            group.retire(rank)
            self.events.record("worker_removed", f"{role} {rank} ended, as asked", role=role, rank=rank)

    def _leave(self, role: str, rank: int) -> None:
        self._joining.pop((role, rank), None)
        if role == "rollout":
            self.unproven.discard(rank)

    def _join(self, role: str, rank: int, ready: Pending[Any]) -> None:
        """A worker's constructor has ended."""
        del self._joining[role, rank]
        if (failure := failure_of(ready, "start")) is not None:
            self.restart(failure)
        elif role == "rollout":
            self.unproven.add(rank)
        else:
            self.admit(role, rank)

    def _late(self, role: str, rank: int, ready: Pending[Any]) -> None:
        """A worker is not up in time: it hangs, or the cluster has no room for it and the others go on without."""
        group = self.roles.of(role)
        has_room = group.has_room(rank)
        if group.live and not has_room:
            self.events.record("no_room", f"{role} {rank} waits for room on the cluster", role=role, rank=rank)
            self._joining[role, rank] = replace(ready, started=time.monotonic())
            return
        cause = f"did not start within {self.start_timeout_s:.0f} s"
        cause += "" if has_room else f": the cluster has no room for {role}.cpus and {role}.gpus"
        self.restart(Failure(FailureKind.HUNG, role, rank, "start", "start", cause))
