"""What a run left in its directory, read so that nothing that is missing, torn or damaged stops the reader."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from rayrlhf.data.durable import entries, is_file, read_bytes
from rayrlhf.data.journal import Journal, Rejection
from rayrlhf.errors import RayRLHFError
from rayrlhf.loop.checkpoint import CheckpointStore, read_manifest
from rayrlhf.stages.run_directory import RunDirectory

LARGEST = 1e100
"""Numbers beyond it are as good as infinite, and no axis has room for them."""
LONGEST_HEADER = 1 << 24
"""Bytes of a safetensors header that are read at most."""


@dataclass(slots=True)
class Damage:
    """Files that could not be read, each as a sentence."""

    notes: list[str] = field(default_factory=list)

    @contextmanager
    def noted(self, path: Path) -> Iterator[None]:
        """What goes wrong in the block is noted instead of raised."""
        try:
            yield
        except RayRLHFError as error:
            self.notes.append(str(error))
        except (OSError, ValueError, RecursionError) as error:
            self.notes.append(f"{path}: cannot be read: {str(error) or type(error).__name__}")


@dataclass(frozen=True, slots=True)
class Event:
    """A line of `events.jsonl`."""

    kind: str
    message: str
    time_s: float | None
    step: int | None
    fields: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A complete checkpoint."""

    name: str
    step: int
    version: int
    size_bytes: int
    files: int


@dataclass(frozen=True, slots=True)
class SetAside:
    """The batch of a step that was not learned from."""

    name: str
    rows: int
    bad_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class History:
    """Everything but the journal's answers. `columns` has each metric's finite numbers by step."""

    directory: RunDirectory
    config: Mapping[str, Any]
    config_text: str
    steps: Sequence[int]
    columns: Mapping[str, Mapping[int, float]]
    events: Sequence[Event]
    checkpoints: Sequence[Checkpoint]
    rejections: Sequence[Rejection]
    set_aside: Sequence[SetAside]
    result: Mapping[str, float]
    damage: Damage

    def setting(self, *keys: str) -> Any:
        """A value of the config, None where it has none."""
        value: Any = self.config
        for key in keys:
            value = value.get(key) if isinstance(value, Mapping) else None
        return value


def read_history(directory: RunDirectory) -> History:
    """Read all of it; damaged files are noted in `damage`."""
    damage = Damage()
    text = _text(directory.config, damage)
    config: dict[str, Any] = {}
    with damage.noted(directory.config):
        config = tomllib.loads(text)
    rows = dict(_metric_rows(directory.metrics, damage))
    rejections: list[Rejection] = []
    with damage.noted(directory.trajectories):
        rejections = Journal(directory.trajectories).rejections()
    return History(
        directory,
        config,
        text,
        sorted(rows),
        _columns(rows),
        [_event(row) for row in _json_lines(directory.events, damage)],
        _checkpoints(directory.checkpoints, damage),
        rejections,
        list(_set_aside(directory.set_aside, damage)),
        _result(directory.result, damage),
        damage,
    )


def last_written(path: Path) -> float | None:
    """When a file was last written, as a Unix time; None where the file system does not say."""
    try:
        return path.stat().st_mtime or None
    except OSError:
        return None


def _text(path: Path, damage: Damage) -> str:
    with damage.noted(path):
        return read_bytes(path).decode() if is_file(path) else ""
    return ""


def _json_lines(path: Path, damage: Damage) -> Iterator[dict[str, Any]]:
    """The objects of whole lines; a run that still writes has a torn last one."""
    for number, line in enumerate(_text(path, damage).split("\n")[:-1], start=1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict):
            yield row
        else:
            damage.notes.append(f"{path}, line {number}: damaged, left out")


def _metric_rows(path: Path, damage: Damage) -> Iterator[tuple[int, dict[str, Any]]]:
    for row in _json_lines(path, damage):
        step = row.pop("step", None)
        if isinstance(step, int) and 0 <= step < 2**53:
            yield step, row


def _columns(rows: Mapping[int, Mapping[str, Any]]) -> dict[str, dict[int, float]]:
    columns: dict[str, dict[int, float]] = {}
    for step in sorted(rows):
        for name, value in rows[step].items():
            if (finite := _finite(value)) is not None:
                columns.setdefault(name, {})[step] = finite
    return columns


def _finite(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) < LARGEST else None


def _event(row: dict[str, Any]) -> Event:
    step = row.get("step")
    known = step if isinstance(step, int) and 0 <= step < 2**53 else None
    return Event(str(row.get("event", "")), str(row.get("message", "")), _finite(row.get("time")), known, row)


def _checkpoints(folder: Path, damage: Damage) -> list[Checkpoint]:
    folders: list[Path] = []
    with damage.noted(folder):
        folders = CheckpointStore(folder, 1, {}).folders()
    found = []
    for complete in folders:
        with damage.noted(complete):
            manifest = read_manifest(complete)
            size, progress = sum(file["bytes"] for file in manifest.files.values()), manifest.progress
            found.append(Checkpoint(complete.name, progress.step, progress.version, size, len(manifest.files)))
    return found


def _set_aside(folder: Path, damage: Damage) -> Iterator[SetAside]:
    files: list[Path] = []
    with damage.noted(folder):
        files = [path for path in entries(folder) if path.suffix == ".safetensors"]
    for path in files:
        about: dict[str, str] = {}
        with damage.noted(path):
            about = _safetensors_metadata(path)
        rows, bad = (about.get(key, "").split(",") for key in ("trajectory_ids", "bad_trajectory_ids"))
        yield SetAside(path.name, len(rows), tuple(filter(None, bad)))


def _safetensors_metadata(path: Path) -> dict[str, str]:
    """Metadata of the file's header (its length in 8 bytes, then JSON); the tensors are not read."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > LONGEST_HEADER:
            raise ValueError(f"not a safetensors file (a header of {length} bytes)")
        header = json.loads(file.read(length))
    about = header.get("__metadata__") if isinstance(header, dict) else None
    if not isinstance(about, dict):
        raise ValueError("not a safetensors file (no metadata)")
    return {str(key): str(value) for key, value in about.items()}


def _result(path: Path, damage: Damage) -> dict[str, float]:
    text = _text(path, damage)
    with damage.noted(path):
        found = json.loads(text) if text else {}
        if not isinstance(found, dict):
            raise ValueError("no JSON object")
        return {name: value for name, raw in found.items() if (value := _finite(raw)) is not None}
    return cast(dict[str, float], {})
