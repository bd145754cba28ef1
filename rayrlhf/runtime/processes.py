"""A role's operating-system processes: their memory, their stacks, and that none of them outlives its parent."""

from __future__ import annotations

import ctypes
import faulthandler
import multiprocessing
import os
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import ray

from rayrlhf.role_types import Vitals

PR_SET_PDEATHSIG = 1
STACKS = Path(tempfile.gettempdir()) / f"rayrlhf-stacks-{os.getuid()}"


def adopt() -> None:
    """Called first in every process of a role: it dies with its parent, even when stopped, and shows its stacks.

    SIGUSR1 makes it write the stack of every thread into a file of its own; that works while Python code cannot run.
    """
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    parent = multiprocessing.parent_process()
    if parent is not None and parent.pid != os.getppid():
        os._exit(1)  # it died before it could take us along
    STACKS.mkdir(exist_ok=True, mode=0o700)
    file = _stack_file(os.getpid()).open("w")  # kept open by faulthandler
    faulthandler.register(signal.SIGUSR1, file=file, all_threads=True)


def vitals() -> Vitals:
    """This process: where it is, and the memory of it and its children."""
    process = psutil.Process()
    resident = 0
    for member in (process, *process.children(recursive=True)):
        try:
            resident += member.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return Vitals(ray.get_runtime_context().get_node_id(), process.pid, resident / 2**20)


def own_memory_mib() -> float:
    """Resident memory of this process alone."""
    return float(psutil.Process().memory_info().rss / 2**20)


def stacks(pid: int, wait_s: float = 1.0) -> str:
    """State and stacks of a role's process and its children on this node, as text for people."""
    try:
        process = psutil.Process(pid)
        members = [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return f"process {pid}: gone"
    return "\n".join(_stacks_of(member, wait_s) for member in members)


def _stacks_of(process: psutil.Process, wait_s: float) -> str:
    try:
        state, name = process.status(), " ".join(process.cmdline()[:1])[:60]
        file = _stack_file(process.pid)
        before = file.stat().st_size if file.is_file() else -1
        if before < 0 or state == psutil.STATUS_STOPPED:
            return f"process {process.pid} ({name}): {state}"
        process.send_signal(signal.SIGUSR1)
        deadline = time.monotonic() + wait_s
        while file.stat().st_size == before and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(0.05)
        text = file.read_bytes()[before:].decode(errors="replace")
    except (psutil.NoSuchProcess, FileNotFoundError):
        return f"process {process.pid}: gone"
    return f"process {process.pid} ({name}): {state}\n{text or '  did not show its stacks: it runs no code'}"


def _stack_file(pid: int) -> Path:
    return STACKS / f"{pid}.txt"


def start_stacks(node: str, pid: int) -> Any:
    """Ask the process's node for its stacks; returns what to wait for."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    there = NodeAffinitySchedulingStrategy(node, soft=False)
    return ray.remote(stacks).options(num_cpus=0, scheduling_strategy=there).remote(pid)
