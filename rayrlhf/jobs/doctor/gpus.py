"""GPUs as the driver (`nvidia-smi`), torch and Ray see them: three counts that must agree, and one CUDA version."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass

from rayrlhf.jobs.doctor.findings import Check, Finding
from rayrlhf.jobs.doctor.imports import ImportFacts

QUERY = ("name", "driver_version", "memory.total", "memory.used", "ecc.errors.uncorrected.volatile.total")
TIMEOUT_S = 30.0
BUSY_SHARE = 0.1
GPUS, DRIVER, BUSY = (Check("GPUs", name) for name in ("devices", "driver", "free memory"))


@dataclass(frozen=True, slots=True)
class Gpu:
    """One of the driver's list; memory in MiB. `ecc_errors`: uncorrected since the last reboot, if counted."""

    name: str
    driver: str
    memory_mib: int
    used_mib: int
    ecc_errors: int | None


@dataclass(frozen=True, slots=True)
class GpuFacts:
    """`cuda`: the newest CUDA that the driver runs. `trouble`: nvidia-smi is there, and failed. `ray`: Ray's count."""

    gpus: tuple[Gpu, ...] = ()
    cuda: str | None = None
    trouble: str = ""
    ray: float | None = None


def gather_gpus(ray: float | None = None) -> GpuFacts:
    """Ask nvidia-smi; a machine without it has no NVIDIA GPU that could be used."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return GpuFacts(ray=ray)
    try:
        rows = _run(program, f"--query-gpu={','.join(QUERY)}", "--format=csv,noheader,nounits")
        cuda = re.search(r"CUDA[^:\n]*Version\s*:\s*([\d.]+)", _run(program))
    except (subprocess.SubprocessError, OSError) as error:
        return GpuFacts(trouble=_reason(error), ray=ray)
    gpus = tuple(_gpu(line) for line in rows.splitlines() if line.count(",") == len(QUERY) - 1)
    return GpuFacts(gpus, cuda.group(1) if cuda else None, ray=ray)


def _run(program: str, *arguments: str) -> str:
    return subprocess.run([program, *arguments], capture_output=True, text=True, check=True, timeout=TIMEOUT_S).stdout


def _reason(error: Exception) -> str:
    told = (error.stdout or error.stderr or "") if isinstance(error, subprocess.CalledProcessError) else ""
    lines = [line for line in str(told).splitlines() if line.strip()]
    return lines[0] if lines else str(error)


def _gpu(line: str) -> Gpu:
    name, driver, total, used, ecc = (part.strip() for part in line.split(","))
    return Gpu(name, driver, _number(total) or 0, _number(used) or 0, _number(ecc))


def _number(text: str) -> int | None:
    return int(text) if text.isdigit() else None


def judge_gpus(facts: GpuFacts, torch: ImportFacts) -> list[Finding]:
    """What there is can be used, and is free."""
    if facts.trouble:
        remedy = "the driver does not work: reboot, or reinstall it; `dmesg | grep -i nvrm` says more"
        return [DRIVER.red(f"nvidia-smi: {facts.trouble}", remedy)]
    found = [*_judge_ray(facts)]
    if not facts.gpus:
        return found or [GPUS.green("none: everything runs on the CPU")]
    found.append(_judge_torch(facts, torch))
    found += [_judge_driver(facts, torch.cuda)]
    return [*found, *_judge_state(facts)]


def _judge_ray(facts: GpuFacts) -> list[Finding]:
    visible = len(facts.gpus)
    if facts.ray is None or facts.ray == visible:
        return []
    told = f"Ray counts {facts.ray:g}, the driver {visible}"
    if facts.ray > visible:
        return [GPUS.red(told, "start the node with the right `ray start --num-gpus`, or mend its driver")]
    return [GPUS.yellow(told, "restart the node without --num-gpus and without CUDA_VISIBLE_DEVICES")]


def _judge_torch(facts: GpuFacts, torch: ImportFacts) -> Finding:
    count, names = len(facts.gpus), ", ".join(sorted({gpu.name for gpu in facts.gpus}))
    if torch.cuda is None and not torch.errors and not torch.trouble:
        remedy = "pip install --no-deps -r requirements/gpu.lock"
        return GPUS.red(f"{count} x {names}, but torch is built for CPUs", remedy)
    if torch.devices < count:
        remedy = "update the driver, or give the container all of them (docker run --gpus all)"
        return GPUS.red(f"{count} x {names}, of which torch can use {torch.devices}", remedy)
    return GPUS.green(f"{count} x {names}, {facts.gpus[0].memory_mib / 1024:.0f} GiB each")


def _judge_driver(facts: GpuFacts, built_for: str | None) -> Finding:
    """CUDA is compatible within a major version: a driver of an older major runs nothing of a newer one."""
    told = f"{facts.gpus[0].driver}, for CUDA {facts.cuda or 'of an unknown version'}"
    if built_for and facts.cuda:
        newest, needed = (tuple(int(part) for part in text.split(".")[:2]) for text in (facts.cuda, built_for))
        remedy = f"install a driver for CUDA {built_for} or newer"
        if newest[0] < needed[0]:
            return DRIVER.red(f"{told}; torch is built for {built_for}", remedy)
        if newest < needed:
            return DRIVER.yellow(
                f"{told}; torch is built for {built_for}, and kernels compiled at run time may fail", remedy
            )
    return DRIVER.green(told)


def _judge_state(facts: GpuFacts) -> list[Finding]:
    found = []
    for index, gpu in enumerate(facts.gpus):
        if gpu.ecc_errors:
            remedy = "drain the node and reset or replace the GPU"
            found.append(GPUS.red(f"GPU {index} has {gpu.ecc_errors} uncorrected memory errors", remedy))
        if gpu.used_mib > BUSY_SHARE * gpu.memory_mib:
            told = f"GPU {index}: {gpu.used_mib} of {gpu.memory_mib} MiB are in use"
            found.append(BUSY.yellow(told, "end what uses it: nvidia-smi names the processes"))
    return found
