"""Faults on purpose, for the test suite and `make chaos`: hurt a chosen process at a chosen phase of a chosen step.

The hidden hook is the variable RAYRLHF_FAULTS, a JSON list such as
`[{"role": "learner", "rank": 1, "phase": "learn", "step": 3, "action": "kill", "after_s": 0.1}]`. Each fires once, in
its phase of the first step from `step` on in which its process is up. Role `driver` is this process. Works on processes
of the driver's node. `corrupt` hurts no process but the newest file of the run that matches `path`, such as
`checkpoints/step-*/policy/*`.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import psutil

from rayrlhf.runtime.environment import planned_faults

Action = Literal["kill", "stop", "kill_engine", "disk", "corrupt"]


@dataclass(frozen=True, slots=True)
class Fault:
    """kill: SIGKILL; stop: SIGSTOP; kill_engine: SIGKILL to its children only; disk: its files cannot grow."""

    role: str
    rank: int
    phase: str
    step: int
    action: Action = "kill"
    after_s: float = 0.0
    path: str = ""


class FaultInjector:
    """Fires planned faults in a run's directory `root`; `pid_of` finds the process of a role's rank."""

    def __init__(
        self,
        faults: Sequence[Fault],
        root: Path,
        pid_of: Callable[[str, int], int | None],
        note: Callable[[Fault], None] = lambda fault: None,
    ) -> None:
        self._waiting = list(faults)
        self._root = root
        self._pid_of = pid_of
        self._note = note

    @classmethod
    def from_environment(
        cls, root: Path, pid_of: Callable[[str, int], int | None], note: Callable[[Fault], None]
    ) -> FaultInjector:
        """The faults that RAYRLHF_FAULTS asks for; none where it is unset. `note` hears of each before it is fired."""
        return cls([Fault(**fault) for fault in json.loads(planned_faults())], root, pid_of, note)

    def phase(self, name: str, step: int) -> None:
        """A phase begins."""
        for fault in [f for f in self._waiting if f.phase == name and f.step <= step]:
            work = self._work(fault)
            if work is not None:
                self._waiting.remove(fault)
                self._note(fault)
                timer = threading.Timer(fault.after_s, work)
                timer.daemon = True
                timer.start()

    def _work(self, fault: Fault) -> Callable[[], None] | None:
        """What to do; None while there is nothing to do it to."""
        if fault.action == "corrupt":
            files = sorted(self._root.glob(fault.path))
            return partial(flip_a_byte, files[-1]) if files else None
        pid = os.getpid() if fault.role == "driver" else self._pid_of(fault.role, fault.rank)
        return partial(hurt, pid, fault.action) if pid is not None and _runs(pid) else None


def flip_a_byte(path: Path) -> None:
    """Change one byte in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


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
