"""Has a machine what a run needs: cores, memory, shared memory, open files, disk, a compiler? Is nothing unsafe set?"""

from __future__ import annotations

import os
import resource
import shutil
import socket
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from rayrlhf.jobs.doctor.findings import Check, Finding
from rayrlhf.runtime.environment import UNSAFE_VLLM, chosen, node_cores

GIB = 2**30
SHM = Path("/dev/shm")
FILES_NEEDED = 4096
"""Ray, vLLM and gloo hold sockets and files in the thousands; Ray's own advice for its processes is 65536."""
SHM_NEEDED_GIB, SHM_WANTED_GIB = 1.0, 2.0
MEMORY_NEEDED_GIB, MEMORY_WANTED_GIB = 2.0, 6.0
DISK_NEEDED_GIB, DISK_WANTED_GIB = 2.0, 10.0
CORES, MEMORY, SHARED, FILES, DISK, COMPILER, VARIABLES = (
    Check("machine", name)
    for name in ("cores", "memory", "/dev/shm", "open files", "temporary disk", "C++ compiler", "unsafe variables")
)


@dataclass(frozen=True, slots=True)
class Space:
    """Bytes in all, and those that are free."""

    total: int
    free: int

    @property
    def free_gib(self) -> float:
        """What is free."""
        return self.free / GIB

    def __str__(self) -> str:
        return f"{self.free / GIB:.1f} of {self.total / GIB:.1f} GiB free"


@dataclass(frozen=True, slots=True)
class MachineFacts:
    """One machine; `files` are the soft and the hard limit of open files. Where there is no /dev/shm, `shm` is None."""

    hostname: str
    cores: int
    memory: Space
    shm: Space | None
    files: tuple[int, int]
    disk_path: str
    disk: Space
    compiler: str | None
    insecure: Mapping[str, str] = field(default_factory=dict)


def gather_machine() -> MachineFacts:
    """Of the machine that this process runs on, as this process may use it."""
    folder = tempfile.gettempdir()
    return MachineFacts(
        hostname=socket.gethostname(),
        cores=node_cores(),
        memory=_memory(),
        shm=space_of(SHM) if SHM.is_dir() else None,
        files=resource.getrlimit(resource.RLIMIT_NOFILE),
        disk_path=folder,
        disk=space_of(Path(folder)),
        compiler=shutil.which("g++") or shutil.which("c++") or shutil.which("clang++"),
        insecure=chosen(*UNSAFE_VLLM),
    )


def _memory() -> Space:
    """Of the machine, or of the container where that is less."""
    machine = psutil.virtual_memory()
    found = Space(machine.total, machine.available)
    allowed = container_memory()
    return (
        found
        if allowed is None or allowed.total >= found.total
        else Space(allowed.total, min(found.free, allowed.free))
    )


def container_memory(root: Path = Path("/sys/fs/cgroup")) -> Space | None:
    """What this process's cgroup (version 2 or 1) may use, its page cache not counted; None: no limit."""
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        try:
            total = int((root / limit).read_text())
            rows = dict(line.split() for line in (root / limit).with_name("memory.stat").read_text().splitlines())
            taken = int((root / used).read_text()) - int(rows.get("inactive_file", 0))
        except (OSError, ValueError):  # `max` is no number
            continue
        return Space(total, max(0, total - taken))
    return None


def space_of(folder: Path) -> Space:
    """Of the file system that a folder is on."""
    found = os.statvfs(folder)
    return Space(found.f_frsize * found.f_blocks, found.f_frsize * found.f_bavail)


def judge_machine(facts: MachineFacts) -> list[Finding]:
    """Each check on its own."""
    cores = f"{facts.cores} ({facts.hostname})"
    return [
        CORES.green(cores) if facts.cores > 1 else CORES.yellow(cores, "give it 2 cores or more: roles take turns"),
        _judge_space(
            MEMORY, facts.memory, (MEMORY_NEEDED_GIB, MEMORY_WANTED_GIB), "end other programs, or take a larger machine"
        ),
        _judge_shm(facts.shm),
        _judge_files(*facts.files),
        _judge_space(
            DISK, facts.disk, (DISK_NEEDED_GIB, DISK_WANTED_GIB), f"free some of {facts.disk_path}, or set TMPDIR"
        ),
        _judge_compiler(facts),
        *_judge_variables(facts.insecure),
    ]


def _judge_space(check: Check, space: Space, bounds: tuple[float, float], remedy: str) -> Finding:
    needed, wanted = bounds
    if space.free_gib < needed:
        return check.red(f"{space}, {needed:g} GiB are needed", remedy)
    return (
        check.yellow(f"{space}, {wanted:g} GiB are better", remedy)
        if space.free_gib < wanted
        else check.green(str(space))
    )


def _judge_shm(shm: Space | None) -> Finding:
    remedy = "docker run --shm-size=8g, or in Kubernetes a memory emptyDir at /dev/shm"
    if shm is None:
        return SHARED.red("there is none: Ray's objects, vLLM's and NCCL's buffers live there", remedy)
    return _judge_space(SHARED, shm, (SHM_NEEDED_GIB, SHM_WANTED_GIB), remedy)


def _judge_files(soft: int, hard: int) -> Finding:
    most = {resource.RLIM_INFINITY: "unlimited"}
    found = f"ulimit -n is {most.get(soft, soft)} (hard limit {most.get(hard, hard)})"
    soft, hard = (2**31 if limit == resource.RLIM_INFINITY else limit for limit in (soft, hard))
    if hard < FILES_NEEDED:
        remedy = "raise the hard limit: LimitNOFILE=65536 in the service, docker run --ulimit nofile=65536"
        return FILES.red(f"{found}, {FILES_NEEDED} are needed", remedy)
    if soft < FILES_NEEDED:
        return FILES.yellow(f"{found}, {FILES_NEEDED} are needed", "ulimit -n 65536 before `ray start`")
    return FILES.green(found)


def _judge_compiler(facts: MachineFacts) -> Finding:
    if facts.compiler is None:
        return COMPILER.red("no g++, c++ or clang++: torch builds its CPU kernels with it", "apt-get install g++")
    return COMPILER.green(facts.compiler)


def _judge_variables(insecure: Mapping[str, str]) -> list[Finding]:
    wrong = {name: value for name, value in insecure.items() if value.lower() not in ("0", "false")}
    found = [VARIABLES.red(f"{name}={value}: {UNSAFE_VLLM[name]}", f"unset {name}") for name, value in wrong.items()]
    return found or [VARIABLES.green("none is set")]
