"""The job that the doctor is asked about: which kind its TOML is of, and what the run itself says of its inputs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from typing import Any, cast

from rayrlhf.config.jobs import Job, RewardJob, RLJob, SFTJob
from rayrlhf.config.keys import JOB_MODELS
from rayrlhf.config.kinds import job_kind
from rayrlhf.config.load import load_job, read_values
from rayrlhf.errors import ConfigError
from rayrlhf.jobs.doctor.isolated import last_words

TIMEOUT_S = 300.0
COMMANDS = {SFTJob: "sft", RewardJob: "reward", RLJob: "rl"}


def load_any_job(config: str, overrides: Sequence[str]) -> Job:
    """The job of a TOML, by the sections that only its kind has.

    Raises:
        ConfigError: as `load_job`, and where the kind cannot be told or is none that has one run.

    """
    kind = job_kind(read_values(config, overrides))
    if kind not in JOB_MODELS:
        raise ConfigError(
            f"{config}: a {kind} has runs of several kinds; a config of {', '.join(JOB_MODELS)} is expected"
        )
    model: Any = JOB_MODELS[kind]
    return cast(Job, load_job(model, config, overrides))


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
