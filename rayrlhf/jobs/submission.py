"""From a config to what Ray is asked to run: the job's id, entrypoint and files, checked before anything is sent.

    CONFIG + overrides ──▶ values as written ──▶ id        (the same values, the same id)
                                 └──▶ validated in the working directory ──▶ what would be lost, missing or shown

The config goes to the cluster as it is written, and the job runs in a copy of the working directory, so relative paths
mean there what they mean here. Knows nothing of the cluster.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import shlex
from collections.abc import Mapping, Sequence
from contextlib import chdir
from dataclasses import dataclass
from os.path import normpath
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from rayrlhf import __version__
from rayrlhf.config.keys import JOB_MODELS
from rayrlhf.config.kinds import job_kind
from rayrlhf.config.load import flat_keys, read_values, validate_job
from rayrlhf.errors import ConfigError
from rayrlhf.jobs.submit_upload import Upload

STOP_MARGIN_S = 15
"""What a run needs to end after it has saved."""
LONGEST_NAME = 60
SECRETS = re.compile(r"://[^/\s]*@|[?&](?:\w+[-_])*(?:sig|signature|token|key|secret|password)=", re.IGNORECASE)
DATA_FILES = (".jsonl", ".json", ".parquet")


@dataclass(frozen=True, slots=True)
class Submission:
    """A job of ours as a Ray job."""

    prefix: str
    entrypoint: str
    upload: Upload
    env_vars: Mapping[str, str]
    metadata: Mapping[str, str]
    remarks: tuple[str, ...]
    """What the user should know, and cannot be checked from here."""


@dataclass(frozen=True, slots=True)
class SubmitArguments:
    """What the user says on the command line."""

    config: str
    overrides: Sequence[str] = ()
    working_directory: str = "."
    resume: str = "auto"
    job: str | None = None


def id_prefix(config: str | Path, overrides: Sequence[str]) -> str:
    """The ids of a job's attempts, without their number: a function of the values as they are written."""
    values = read_values(config, overrides)
    return _prefix(values)


def _prefix(values: Mapping[str, Any]) -> str:
    text = json.dumps(values, sort_keys=True, default=str)
    name = str(values.get("name", "unnamed"))[:LONGEST_NAME]
    return f"rayrlhf-{name}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def prepare_submission(arguments: SubmitArguments) -> Submission:
    """Validate the config as the job will see it, and find what it needs of the working directory.

    Raises:
        ConfigError: what `rayrlhf rl` would refuse, and what would be lost, missing or visible on the cluster.

    """
    for override in arguments.overrides:
        _refuse_secret(override.partition("=")[0], override)
    _refuse_secret("--resume", arguments.resume)
    root, config = Path(arguments.working_directory).resolve(), Path(arguments.config)
    file = config.parent.resolve() / config.name
    values = read_values(arguments.config, arguments.overrides)
    command = arguments.job or job_kind(values, "--job")
    if command not in JOB_MODELS:
        raise ConfigError(f"{arguments.config}: a {command} cannot be submitted; {', '.join(JOB_MODELS)} can")
    upload = Upload.of(root)
    if not file.is_relative_to(root):
        raise ConfigError(
            f"{arguments.config} is not in the working directory {root}, which is what the cluster gets: move it "
            "there, or give --working-dir"
        )
    with chdir(root):
        job = validate_job(JOB_MODELS[command], values, source=arguments.config)
    _require_uploaded(upload, file, "the config")
    _require_lasting(values, arguments.resume)
    remarks = _check_paths(flat_keys(values), flat_keys(job.model_dump(mode="json")), upload)
    inside = file.relative_to(root).as_posix()
    words = ["python", "-m", "rayrlhf.cli", command, inside, *arguments.overrides, "--resume", arguments.resume]
    return Submission(
        _prefix(values),
        shlex.join(words),
        upload,
        {"RAY_JOB_STOP_WAIT_TIME_S": str(_stop_wait_s(job))},
        {"rayrlhf": __version__, "job": command, "name": str(values["name"]), "config": inside},
        remarks,
    )


def _stop_wait_s(job: BaseModel) -> int:
    """Ray kills a job this long after it was asked to stop; 3 s would be too short to save in."""
    grace_s: float = job.recovery.grace_s  # type: ignore[attr-defined]
    return math.ceil(grace_s) + STOP_MARGIN_S


def _refuse_secret(key: str, text: str) -> None:
    """What makes a value wrong here is not repeated."""
    leaf = key.rpartition(".")[2].lower()
    if SECRETS.search(text) or any(word in leaf for word in ("password", "secret", "credential")):
        raise ConfigError(
            f"{key}: this looks like a credential, and everybody who sees the cluster's jobs sees their command. "
            "Credentials belong into the environment of the cluster's nodes"
        )


def _require_lasting(values: Mapping[str, Any], resume: str) -> None:
    """A run in the job's copy of the working directory would end with it."""
    run = values.get("run", {})
    directory = str(run.get("directory", "runs"))
    scheme, is_url, rest = directory.partition("://")
    path = rest if scheme in ("file", "local") else directory
    if not Path(path).is_absolute() and (not is_url or scheme in ("file", "local")):
        raise ConfigError(
            f"run.directory = {directory!r} is relative: on the cluster it would be in the job's temporary copy of the "
            "working directory and be lost with it. Give an absolute path that all nodes share, or a URL such as "
            "s3://bucket/runs"
        )
    if "ray_address" in run:
        raise ConfigError("run.ray_address: a submitted job runs on the cluster it was submitted to; remove the key")
    if resume not in ("auto", "never") and "://" not in resume and not Path(resume).is_absolute():
        raise ConfigError(f"--resume {resume}: auto, never, an absolute path or a URL is expected")


def _check_paths(written: dict[str, Any], validated: dict[str, Any], upload: Upload) -> tuple[str, ...]:
    """What the config names is uploaded, or a remark says that the nodes need it. Validation made paths absolute."""
    remarks = []
    for key, value in written.items():
        if not isinstance(value, str) or key == "run.directory":
            continue
        if Path(value).is_absolute():
            remarks.append(f"{key} = {value}: not uploaded, so every node of the cluster needs it at this path")
        elif validated.get(key) != value and Path(str(validated.get(key))).is_absolute():
            _require_uploaded(upload, Path(str(validated[key])), f"{key} = {value}")
        elif key.startswith("data.") and value.endswith(DATA_FILES):
            raise ConfigError(f"{key} = {value}: no such file in {upload.root}")
    return tuple(remarks)


def _require_uploaded(upload: Upload, path: Path, what: str) -> None:
    path = Path(normpath(path))
    if not path.is_relative_to(upload.root):
        raise ConfigError(
            f"{what} leaves the working directory {upload.root}, and the cluster gets nothing else: give "
            "--working-dir, or an absolute path that all nodes share"
        )
    if not upload.holds(path):
        raise ConfigError(
            f"{what} is in the working directory, but it is not uploaded: .gitignore, .rayignore or rayrlhf's own list "
            "(runs/, virtual environments, caches) leaves it out. Put it elsewhere, or on storage that all nodes "
            "share, and name it by an absolute path"
        )
