"""Runs one of the doctor's programs in a process of its own: it may crash or hang, and the doctor says so."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

from rayrlhf.runtime.environment import child_environment


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a program told (its last line, JSON), or why it told nothing."""

    told: dict[str, Any] | None
    trouble: str = ""


def run_program(module: str, *arguments: str, timeout_s: float, gpus: str | None = None) -> Outcome:
    """`python -m module …`. Ray hides GPUs from the process that asks; the program sees all, or those named."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", module, *arguments],
            env=child_environment({"CUDA_VISIBLE_DEVICES": gpus}),
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
        )
    except subprocess.TimeoutExpired:
        return Outcome(None, f"no answer within {timeout_s:.0f} s")
    lines = done.stdout.splitlines()
    if done.returncode == 0 and lines and lines[-1].startswith("{"):
        return Outcome(json.loads(lines[-1]))
    if done.returncode < 0:
        return Outcome(None, f"killed by signal {-done.returncode}")
    return Outcome(None, last_words(done.stderr) or f"exit code {done.returncode}")


def last_words(stderr: str) -> str:
    """The line of a log that most likely says why a program ended: its last one that is not blank."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""
