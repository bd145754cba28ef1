"""Where the processes of all roles are, and how much memory they hold: asked every step, kept for whoever asks."""

from __future__ import annotations

from collections.abc import Mapping

from rayrlhf.loop.roles import Roles
from rayrlhf.role_types import Vitals, Worker
from rayrlhf.runtime.processes import own_memory_mib
from rayrlhf.runtime.worker_group import answers

ANSWER_S = 5.0


class Census:
    """The last answer of every worker; one that does not answer keeps its old one. The driver counts as well."""

    def __init__(self, roles: Roles) -> None:
        self._roles = roles
        self._vitals: dict[tuple[str, int], Vitals] = {}

    def take(self) -> dict[str, float]:
        """Ask everybody; returns the resident memory by worker, in MiB."""
        calls = [call for group in self._roles.all for call in group.start(Worker.vitals)]
        for call, vitals in answers(calls, ANSWER_S):
            self._vitals[call.role, call.rank] = vitals
        memory = {f"memory/{role}_{rank}_mib": v.resident_mib for (role, rank), v in sorted(self._vitals.items())}
        return memory | {"memory/driver_mib": own_memory_mib()}

    def forget(self, role: str, rank: int) -> None:
        """A worker that is gone for good."""
        self._vitals.pop((role, rank), None)

    @property
    def vitals(self) -> Mapping[tuple[str, int], Vitals]:
        """By role and rank."""
        return self._vitals

    def pid_of(self, role: str, rank: int) -> int | None:
        """The worker's process, as far as is known."""
        found = self._vitals.get((role, rank))
        return found.pid if found else None
