"""No progress for a while: show what every role is doing, and name who is waited for.

A stall is written once a phase to `stacks/`: the calls that have not answered, and the state and stacks of all
processes of all roles. A stopped process, or one that shows no stacks, is the one to look at.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rayrlhf.data.durable import write_durably
from rayrlhf.loop.census import Census
from rayrlhf.observability.events import EventLog
from rayrlhf.runtime.processes import start_stacks
from rayrlhf.runtime.worker_group import Pending, collect

STACKS_S = 15.0


class Watchdog:
    """Reports a stall after `stall_s` seconds in which no call has answered, and before a late worker is ended."""

    def __init__(self, census: Census, folder: Path, stall_s: float, events: EventLog) -> None:
        self._census, self._folder, self._stall_s, self._events = census, folder, stall_s, events
        self._phase, self._since, self._reported = "", time.monotonic(), False

    def begin(self, phase: str) -> None:
        """Another wait begins."""
        self._phase, self._since, self._reported = phase, time.monotonic(), False

    def looked(self, waiting: Sequence[Pending[Any]], *, answered: bool, late: bool) -> None:
        """Called at every look-up of the wait."""
        if answered and not late:
            self._since = time.monotonic()
        stalled = time.monotonic() - self._since > self._stall_s
        if (late or stalled) and not self._reported:
            self._reported = True
            self._report(waiting)

    def _report(self, waiting: Sequence[Pending[Any]]) -> None:
        culprits = ", ".join(str(call) for call in waiting[:5]) + (" …" if len(waiting) > 5 else "")
        message = f"{self._phase}: no answer for {time.monotonic() - self._since:.0f} s; waiting for {culprits}"
        path = self._folder / f"{time.strftime('%Y%m%d-%H%M%S')}.txt"
        try:
            write_durably(path, f"{message}\n\n{self._stacks()}\n".encode())
            message += f" (stacks of all roles: {path})"
        except OSError as error:
            message += f" (the stacks of all roles could not be written: {error})"
        self._events.record("stall", message, waiting=[str(call) for call in waiting])

    def _stacks(self) -> str:
        asked = {key: start_stacks(v.node, v.pid) for key, v in self._census.vitals.items()}
        texts = collect(list(asked.values()), STACKS_S)
        parts = []
        for (role, rank), text in zip(asked, texts, strict=True):
            parts.append(f"=== {role} {rank}\n{text if text is not None else 'its node does not answer'}")
        return "\n".join(parts)
