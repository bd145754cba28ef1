"""The process in which a model's code runs: it gives up everything but computing, then calls the code.

Started by `sandbox.py` as a file in a bare interpreter; it imports nothing of the package and knows no right answer:

    request (JSON, its stdin) ──▶ modules ──▶ limits, system call filter ──▶ "ready" ──▶ code ──▶ one line a call

What follows "ready" may be written by the code itself, so it is never more than the code's answers.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import platform
import random
import resource
import signal
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any

MODULES = """
    abc array base64 bisect calendar cmath collections collections.abc contextlib copy dataclasses datetime decimal
    difflib enum fractions functools hashlib heapq itertools math numbers operator random re statistics string struct
    textwrap time types typing unicodedata
    """.split()  # noqa: SIM905 (thirty quoted names read worse)
"""What answers may import: it is loaded before the filter, after which no file can be opened."""

# x86-64's numbers: computing, memory, reading and writing what is open, the time, random bytes, and ending. So no file,
# directory, socket, process, thread, signal to others, priority, mount, trace, or way to load code into the kernel.
ALLOWED = {
    "read": 0, "write": 1, "close": 3, "fstat": 5, "lseek": 8, "mmap": 9, "mprotect": 10, "munmap": 11, "brk": 12,
    "rt_sigaction": 13, "rt_sigprocmask": 14, "rt_sigreturn": 15, "sched_yield": 24, "mremap": 25, "madvise": 28,
    "getpid": 39, "exit": 60, "getrusage": 98, "times": 100, "getuid": 102, "getgid": 104, "geteuid": 107,
    "getegid": 108, "sigaltstack": 131, "gettid": 186, "time": 201, "futex": 202, "restart_syscall": 219,
    "clock_gettime": 228, "clock_getres": 229, "exit_group": 231, "gettimeofday": 96, "getrandom": 318,
}  # fmt: skip
ALLOW, REFUSE, KILL = 0x7FFF0000, 0x00050000 | 1, 0x80000000  # what is not allowed answers EPERM
X86_64 = 0xC000003E
SECCOMP_CALL, SET_MODE_FILTER, ALL_THREADS = 317, 1, 1
NO_NEW_PRIVILEGES, DIE_WITH_PARENT = 38, 1
NOBODY = 65534


class _Instruction(ctypes.Structure):
    _fields_ = [("code", ctypes.c_ushort), ("jt", ctypes.c_ubyte), ("jf", ctypes.c_ubyte), ("k", ctypes.c_uint)]


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.POINTER(_Instruction))]


def install_filter(numbers: Iterable[int], inside: int = ALLOW, outside: int = REFUSE) -> None:
    """Answer the calls in `numbers` with `inside` and all others with `outside`, for good and for every thread."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise OSError(f"system calls can be filtered on Linux on x86-64 only, and this is {platform.platform()}")
    load, equal, answer = 0x20, 0x15, 0x06
    listed = sorted(numbers)
    steps = [(load, 0, 0, 4), (equal, 1, 0, X86_64), (answer, 0, 0, KILL), (load, 0, 0, 0)]
    steps += [(equal, len(listed) - i, 0, number) for i, number in enumerate(listed)]
    steps += [(answer, 0, 0, outside), (answer, 0, 0, inside)]
    program = _Program(len(steps), (_Instruction * len(steps))(*(_Instruction(*step) for step in steps)))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0) or libc.syscall(
        SECCOMP_CALL, SET_MODE_FILTER, ALL_THREADS, ctypes.byref(program)
    ):
        raise OSError(ctypes.get_errno(), f"the kernel takes no system call filter: {os.strerror(ctypes.get_errno())}")


def _give_up_privileges(limits: Mapping[str, int], unprotected: bool) -> None:
    if os.geteuid() == 0:
        with suppress(PermissionError):  # root without the capability; the filter does not depend on it
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
    ctypes.CDLL(None).prctl(DIE_WITH_PARENT, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != limits["parent"]:
        os._exit(1)
    memory = limits["memory_mib"] << 20
    for kind, soft, hard in [
        (resource.RLIMIT_AS, memory, memory),
        (resource.RLIMIT_CPU, limits["cpu_s"], limits["cpu_s"] + 1),
        (resource.RLIMIT_FSIZE, 0, 0),
        (resource.RLIMIT_NOFILE, 16, 16),
        (resource.RLIMIT_NPROC, 0, 0),
        (resource.RLIMIT_CORE, 0, 0),
    ]:
        resource.setrlimit(kind, (soft, hard))
    if not unprotected:
        install_filter(ALLOWED.values())


def _say(channel: int, what: Mapping[str, Any]) -> None:
    line = memoryview(json.dumps(what).encode() + b"\n")
    while line:
        line = line[os.write(channel, line) :]


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:300]


def _answer(function: Callable[..., Any], arguments: list[Any]) -> dict[str, Any]:
    try:
        return {"value": json.loads(json.dumps(function(*arguments)))}
    except BaseException as error:  # noqa: BLE001 (the code may raise anything, SystemExit included)
        return {"error": _reason(error)}


def main() -> None:
    """See the module's docstring."""
    request = json.loads(sys.stdin.buffer.read())
    channel, null = os.dup(1), os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    try:
        sys.path += request["paths"]
        for name in [*MODULES, *request["modules"]]:
            importlib.import_module(name)
        _give_up_privileges(request["limits"], request["unprotected"])
    except Exception as error:  # noqa: BLE001 (whatever it is: the code is not run)
        _say(channel, {"sandbox": _reason(error)})
        return
    _say(channel, {"sandbox": "ready"})
    random.seed(0)
    namespace: dict[str, Any] = {"__name__": "answer"}
    try:
        exec(compile(request["code"], "answer", "exec"), namespace)
        function = namespace[request["function"]]
    except BaseException as error:  # noqa: BLE001 (as above)
        failed = _reason(error)
        if isinstance(error, KeyError) and request["function"] not in namespace:
            failed = f"NameError: the code defines no {request['function']}"
        for _ in request["calls"]:
            _say(channel, {"error": failed})
        return
    for arguments in request["calls"]:
        _say(channel, _answer(function, arguments))


if __name__ == "__main__":
    main()
    os._exit(0)
