"""The run directory's names (the contract with users, tests and tools) and its resolved config."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rayrlhf.config.base import Section
from rayrlhf.config.jobs import RLJob, SupervisedJob
from rayrlhf.data.durable import as_path, is_local, write_durably
from rayrlhf.data.stores import require_store
from rayrlhf.errors import ConfigError
from rayrlhf.loop.scaling import FILE as WORKERS


@dataclass(frozen=True, slots=True)
class RunDirectory:
    """Paths of one run."""

    root: Path

    @classmethod
    def of(cls, job: RLJob | SupervisedJob) -> RunDirectory:
        """The directory of a job's run: a local path or a URL."""
        return cls(as_path(job.run.directory) / job.name)

    def require_reachable(self) -> None:
        """Refuse a URL whose store cannot be read from here; writes nothing."""
        try:
            require_store(self.root)
        except OSError as error:
            raise ConfigError(
                f"run.directory cannot be read: {error}. Credentials, region and endpoint come from the environment, "
                "see docs/storage.md"
            ) from None

    @property
    def config(self) -> Path:
        """The resolved config."""
        return self.root / "config.toml"

    @property
    def metrics(self) -> Path:
        """One JSON object a step."""
        return self.root / "metrics.jsonl"

    @property
    def trajectories(self) -> Path:
        """The journal."""
        return self.root / "trajectories"

    @property
    def checkpoints(self) -> Path:
        """Checkpoints."""
        return self.root / "checkpoints"

    @property
    def model(self) -> Path:
        """The exported model."""
        return self.root / "model"

    @property
    def result(self) -> Path:
        """Final metrics of a supervised stage."""
        return self.root / "result.json"

    @property
    def timeline(self) -> Path:
        """The trace."""
        return self.root / "timeline.json"

    @property
    def events(self) -> Path:
        """Failures, recoveries and saves."""
        return self.root / "events.jsonl"

    @property
    def workers(self) -> Path:
        """How many workers people want, by role."""
        return self.root / WORKERS

    @property
    def stop(self) -> Path:
        """Asks the ranks of a supervised stage to save and end."""
        return self.root / "stop"

    @property
    def failed(self) -> Path:
        """Why the ranks of a supervised stage gave up by themselves."""
        return self.root / "failed.txt"

    @property
    def stacks(self) -> Path:
        """What every role was doing when nothing moved."""
        return self.root / "stacks"

    @property
    def set_aside(self) -> Path:
        """Batches of steps whose numbers were not finite."""
        return self.root / "set_aside"

    @property
    def reward_service(self) -> Path:
        """Which model the service at `reward.url` had when the run began."""
        return self.root / "reward_service.json"

    @property
    def report(self) -> Path:
        """One page for people."""
        return self.root / "report.html"

    @property
    def tensorboard(self) -> Path:
        """TensorBoard's event files."""
        return self.root / "tensorboard"

    @contextmanager
    def occupied(self, job: Section) -> Iterator[None]:
        """`create` it, and keep other processes from running here until the block or this process ends.

        Raises:
            ConfigError: another process runs here. Object stores have no locks, so there nobody is kept out.

        """
        with ExitStack() as stack:
            if is_local(self.root):
                stack.enter_context(locked(self.root))
            self.create(job)
            yield

    def create(self, job: Section) -> None:
        """Make the directory and write the resolved config; says what a URL cannot hold."""
        try:
            write_durably(self.config, to_toml(job).encode())
        except (OSError, NotImplementedError) as error:
            raise ConfigError(f"run.directory cannot be written: {error or 'this kind of URL is read-only'}") from None
        if not is_local(self.root):
            print(f"{self.root}: no TensorBoard files in a store; metrics.jsonl has the same numbers")


@contextmanager
def locked(root: Path) -> Iterator[None]:
    """Keep other processes out of a local folder, which is made, until the block or this process ends."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        file = (root / "lock").open("a+")
    except OSError as error:
        raise ConfigError(f"run.directory cannot be written: {error}") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            who = file.read() or "another process"
            message = f"{root}: {who} runs here: wait for it, end it, or choose another `name`"
            raise ConfigError(message) from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield


def to_toml(job: Section) -> str:
    """A job as TOML that loads back to the same job; unset keys are left out."""
    return toml_text(job.model_dump(mode="json"))


def toml_text(values: dict[str, Any]) -> str:
    """Tables, numbers, texts and lists as TOML."""
    lines: list[str] = []
    _write_table(values, "", lines)
    return "\n".join(lines).strip() + "\n"


def _write_table(values: dict[str, Any], path: str, lines: list[str]) -> None:
    if path:
        lines.append(f"\n[{path}]")
    for key, value in values.items():
        if value is not None and not isinstance(value, dict):
            lines.append(f"{key if key.isidentifier() else json.dumps(key)} = {json.dumps(value)}")
    for key, value in values.items():
        if isinstance(value, dict) and value:
            _write_table(value, f"{path}.{key}" if path else key, lines)
