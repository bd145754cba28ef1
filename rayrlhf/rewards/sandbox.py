"""Runs a function that a model wrote, on inputs that we give, and brings back what it returned: data, never a verdict.

    reward function ──code, inputs──▶ a bare process that can only compute ──values──▶ compare here, with answers
                                      (sandbox_child.py)                               that were never in there

The code can make its process say anything, so what it says is worth no more than a guess at the answers. Everything
that it could do harm with is taken from its process by a system call filter before it runs; limits, an empty
environment, an empty directory of its own and a session that is killed are around that. Knows nothing of rewards.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rayrlhf.errors import SandboxError

CHILD = Path(__file__).with_name("sandbox_child.py")
SURROUNDINGS = {"PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
"""The whole environment of the process. Equal code gives equal answers, so sets have one order, `random` one seed."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one piece of code may use, all its calls together."""

    cpu_s: int = 2
    wall_s: float = 10.0
    """From the start of its process; only for a machine that is busy, since the code itself cannot wait."""
    memory_mib: int = 512
    """Address space, the interpreter's 40 MiB included."""
    output_kib: int = 1024


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one call came to: the value that it returned, as JSON has it (a tuple is a list), or why there is none."""

    value: Any = None
    error: str = ""

    @property
    def returned(self) -> bool:
        """Whether there is a value."""
        return not self.error


def call_function(
    code: str,
    function: str,
    calls: Sequence[Sequence[Any]],
    limits: Limits | None = None,
    modules: Sequence[str] = (),
    unprotected: bool = False,
) -> list[Outcome]:
    """Define `function` by `code` and call it with each list of arguments (JSON values); one outcome a call.

    `modules` may be imported by the code besides those of the standard library in `sandbox_child.MODULES`.
    `unprotected`: run without the system call filter where there is none. Then only the limits hold: the code can
    read files and reach the network.

    Raises:
        SandboxError: the process cannot be protected, or did not start. Nothing that the code does raises.

    """
    limits = limits or Limits()
    asked = {
        "code": code,
        "function": function,
        "calls": [list(arguments) for arguments in calls],
        "modules": list(modules),
        "paths": [path for path in sys.path if path] if modules else [],
        "limits": asdict(limits) | {"parent": os.getpid()},
        "unprotected": unprotected,
    }
    output, ended = _run(json.dumps(asked).encode(), limits)
    lines = output.split(b"\n")[:-1]
    _require_ready(lines[0] if lines else b"", ended)
    outcomes = [_outcome(line) for line in lines[1 : len(calls) + 1]]
    return outcomes + [Outcome(error=ended)] * (len(calls) - len(outcomes))


def _run(request: bytes, limits: Limits) -> tuple[bytes, str]:
    """What the process wrote, and how it ended, in words."""
    with tempfile.TemporaryFile() as given, tempfile.TemporaryDirectory(prefix="rayrlhf-answer-") as folder:
        given.write(request)
        given.seek(0)
        process = subprocess.Popen(
            [sys.executable, "-s", "-P", "-S", "-B", "-X", "utf8", str(CHILD)],
            stdin=given,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=SURROUNDINGS,
            cwd=folder,
            start_new_session=True,
        )
        try:
            output, stopped = _read(process, limits)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            code = process.wait()
            assert process.stdout is not None
            process.stdout.close()
    return output, stopped or _ended(code)


def _read(process: subprocess.Popen[bytes], limits: Limits) -> tuple[bytes, str]:
    """All that it writes until it ends, or until it has written or taken too much; then why it was stopped."""
    assert process.stdout is not None
    deadline, room = time.monotonic() + limits.wall_s, limits.output_kib << 10
    descriptor, output = process.stdout.fileno(), bytearray()
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    while True:
        left_s = deadline - time.monotonic()
        if left_s <= 0 or not poll.poll(left_s * 1000):
            return bytes(output), f"stopped: no answer within {limits.wall_s:g} s"
        chunk = os.read(descriptor, 1 << 16)
        if not chunk:
            return bytes(output), "" if _has_ended(process.pid, deadline) else "stopped: it did not end"
        output += chunk
        if len(output) > room:
            return bytes(output[:room]), f"stopped: more than {limits.output_kib} KiB of output"


def _has_ended(pid: int, deadline: float) -> bool:
    """Whether it ends in time; it may go on with its channel closed. Its pid stays taken, so no other is killed."""
    while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.001)
    return True


def _ended(code: int) -> str:
    if code >= 0:
        return f"the process ended with exit code {code} before it answered"
    if code == -signal.SIGXCPU:
        return "stopped: its CPU time is used up"
    return f"the process was ended by {signal.Signals(-code).name} before it answered"


def _require_ready(line: bytes, ended: str) -> None:
    """The first line is from before the code ran, so it is true."""
    try:
        said = str(json.loads(line)["sandbox"])
    except (ValueError, KeyError, TypeError):
        said = ended
    if said != "ready":
        raise SandboxError(
            f"a model's code was not run, because its process could not be prepared: {said}. Without the system call "
            "filter it could open files and sockets, start processes and signal others; unprotected=True runs it so"
        )


def _outcome(line: bytes) -> Outcome:
    """One line of the process, of which nothing is sure."""
    try:
        said = json.loads(line)
    except (ValueError, RecursionError):
        said = None
    if isinstance(said, dict) and said.keys() == {"value"}:
        return Outcome(said["value"])
    error = said.get("error") if isinstance(said, dict) else None
    return Outcome(error=error if isinstance(error, str) and error else "the process wrote what is no answer")
