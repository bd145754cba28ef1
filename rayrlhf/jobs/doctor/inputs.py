"""The job that the doctor is asked about: which kind its TOML is of, and what the run itself says of its inputs."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from rayrlhf.config.jobs import Job, RewardJob, RLJob, SFTJob
from rayrlhf.config.keys import JOB_MODELS
from rayrlhf.config.load import load_job
from rayrlhf.jobs.doctor.isolated import last_words

TIMEOUT_S = 300.0
COMMANDS = {SFTJob: "sft", RewardJob: "reward", RLJob: "rl"}


def load_any_job(config: str, overrides: Sequence[str]) -> Job:
    """The job of a TOML, by the sections that only its kind has.

    Raises:
        ConfigError: as `load_job`.

    """
    kind: Any = JOB_MODELS[_command_of(config)]
    return cast(Job, load_job(kind, config, overrides))


def _command_of(config: str) -> str:
    try:
        found = tomllib.loads(Path(config).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return "rl"  # loading says what is wrong
    data = found.get("data", {})
    if "algorithm" in found or "rollout" in found or "prompts" in data:
        return "rl"
    return "reward" if "comparisons" in data else "sft"


def check_inputs(job: Job, config: Sequence[str]) -> str:
    """Why `--dry-run` of the job refuses it, here; empty: it does not. Ends nothing and starts nothing."""
    command = COMMANDS[type(job)]
    program = [sys.executable, "-m", "rayrlhf.cli", command, *config, "--dry-run"]
    try:
        done = subprocess.run(program, capture_output=True, text=True, errors="replace", timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return f"`rayrlhf {command} --dry-run` did not end within {TIMEOUT_S:.0f} s"
    if done.returncode == 0:
        return ""
    _, found, message = done.stderr.rpartition(f"rayrlhf {command}: ")
    return message.strip() if found else last_words(done.stderr) or f"exit code {done.returncode}"
