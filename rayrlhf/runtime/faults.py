"""Faults on purpose, for the test suite and `make chaos`: hurt a chosen process at a chosen phase of a chosen step.

The hidden hook is the variable RAYRLHF_FAULTS, a JSON list such as
`[{"role": "learner", "rank": 1, "phase": "learn", "step": 3, "action": "kill", "after_s": 0.1}]`. Each fires once, in
its phase of the first step from `step` on in which its process is up. Role `driver` is this process. Works on processes
of the driver's node.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import psutil

from rayrlhf.runtime.environment import planned_faults

Action = Literal["kill", "stop", "kill_engine", "disk"]


@dataclass(frozen=True, slots=True)
class Fault:
    """kill: SIGKILL; stop: SIGSTOP; kill_engine: SIGKILL to its children only; disk: its files cannot grow."""

    role: str
    rank: int
    phase: str
    step: int
    action: Action = "kill"
    after_s: float = 0.0


class FaultInjector:
    """Fires planned faults; `pid_of` finds the process of a role's rank."""

    def __init__(self, faults: Sequence[Fault], pid_of: Callable[[str, int], int | None]) -> None:
        self._waiting = list(faults)
        self._pid_of = pid_of

    @classmethod
    def from_environment(cls, pid_of: Callable[[str, int], int | None]) -> FaultInjector:
        """The faults that RAYRLHF_FAULTS asks for; none where it is unset."""
        return cls([Fault(**fault) for fault in json.loads(planned_faults())], pid_of)

    def phase(self, name: str, step: int) -> None:
        """A phase begins."""
        for fault in [f for f in self._waiting if f.phase == name and f.step <= step]:
            pid = os.getpid() if fault.role == "driver" else self._pid_of(fault.role, fault.rank)
            if pid is not None and _runs(pid):
                self._waiting.remove(fault)
                timer = threading.Timer(fault.after_s, hurt, [pid, fault.action])
                timer.daemon = True
                timer.start()


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def hurt(pid: int, action: Action) -> None:
    """Do it; a process that is gone already is left alone."""
    try:
        process = psutil.Process(pid)
        match action:
            case "kill":
                process.kill()
            case "stop":
                process.send_signal(signal.SIGSTOP)
            case "kill_engine":
                for child in process.children(recursive=True):
                    child.kill()
            case "disk":
                process.rlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    except psutil.NoSuchProcess:
        return
