"""Checkpoints: complete or not there at all.

    checkpoints/step-000010/{policy,critic}/shard-*.safetensors, state.json, and last of all manifest.json

The manifest holds every file's size and digest. A folder without one is a torn save: ignored, and cleared by the next.
Older checkpoints go only after the new manifest is durable. Local paths and fsspec URLs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rayrlhf.data.durable import (
    describe_file,
    entries,
    is_file,
    make_folder,
    move_folder,
    read_bytes,
    remove_file,
    remove_tree,
    write_durably,
)
from rayrlhf.errors import CheckpointError
from rayrlhf.loop.progress import Progress
from rayrlhf.role_types import SavedFile

MANIFEST = "manifest.json"
STATE = "state.json"


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a complete checkpoint says of itself."""

    progress: Progress
    config: Mapping[str, Any]
    prompts_digest: str
    in_flight: tuple[str, ...]
    files: Mapping[str, Mapping[str, Any]]


class CheckpointStore:
    """The checkpoints of one run."""

    def __init__(self, directory: Path, keep: int, config: Mapping[str, Any], prompts_digest: str = "") -> None:
        self._directory = directory
        self._keep = keep
        self._config = config
        self._prompts_digest = prompts_digest

    def has(self, step: int) -> bool:
        """Whether the step has a complete checkpoint."""
        return is_file(self.folder(step) / MANIFEST)

    def begin(self, step: int) -> Path:
        """An empty folder for the shards of a save; what is left of torn ones goes."""
        assert not self.has(step), "a complete checkpoint is never written again"
        complete = self.folders()
        for folder in self._steps():
            if folder not in complete:
                remove_tree(folder)
        folder = self.folder(step)
        make_folder(folder)
        return folder

    def complete(
        self, folder: Path, progress: Progress, files: Mapping[str, SavedFile], in_flight: tuple[str, ...] = ()
    ) -> None:
        """All shards are durable (`files` by their path in the folder): make it a checkpoint."""
        state = {**asdict(progress), "in_flight_groups": in_flight, "randomness": "of run seed, step and id; no state"}
        write_durably(folder / STATE, json.dumps(state, indent=1).encode())
        described = {name: {"bytes": file.size_bytes, "sha256": file.sha256} for name, file in files.items()}
        manifest = {
            **asdict(progress),
            "config": self._config,
            "prompts_digest": self._prompts_digest,
            "in_flight_groups": in_flight,
            "files": {**described, STATE: describe_file(folder / STATE)},
        }
        write_durably(folder / MANIFEST, json.dumps(manifest, indent=1).encode())

    def rotate(self) -> None:
        """Remove all but the newest `keep` checkpoints."""
        for old in self.folders()[: -self._keep]:
            remove_file(old / MANIFEST)
            remove_tree(old)

    def folder(self, step: int) -> Path:
        """Where the checkpoint of a step is, or would be."""
        return self._directory / f"step-{step:06d}"

    def folders(self) -> list[Path]:
        """Complete checkpoints, oldest first."""
        return sorted(folder for folder in self._steps() if is_file(folder / MANIFEST))

    def newest(self) -> Path | None:
        """The newest complete checkpoint."""
        return found[-1] if (found := self.folders()) else None

    def newest_whole(self, note: Callable[[str], None]) -> Path | None:
        """The newest checkpoint whose files are what was saved; damaged ones are set aside, and `note` hears of it."""
        while (folder := self.newest()) is not None:
            try:
                verify(folder)
                return folder
            except CheckpointError as error:
                aside = folder.with_name(f"damaged-{folder.name}")
                move_folder(folder, aside)
                note(f"{error}; kept as {aside.name}, an older one is used")
        return None

    def _steps(self) -> list[Path]:
        return [entry for entry in entries(self._directory) if entry.name.startswith("step-")]


def read_manifest(folder: Path) -> Manifest:
    """What a checkpoint says of itself; the files are not looked at.

    Raises:
        CheckpointError: there is no manifest, or it is damaged.

    """
    path = folder / MANIFEST
    try:
        found = json.loads(read_bytes(path))
        progress = Progress(int(found["step"]), int(found["version"]), float(found["kl_coefficient"]))
        flight = tuple(found["in_flight_groups"])
        files = {
            str(name): {"bytes": int(f["bytes"]), "sha256": str(f["sha256"])} for name, f in found["files"].items()
        }
        return Manifest(progress, dict(found["config"]), str(found["prompts_digest"]), flight, files)
    except (FileNotFoundError, NotADirectoryError):
        raise CheckpointError(f"{folder}: not a complete checkpoint (no {MANIFEST})") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: damaged: {type(error).__name__}: {error}") from None


def verify(folder: Path) -> Manifest:
    """Check every file of a checkpoint against its manifest.

    Raises:
        CheckpointError: no manifest, or a file is missing or not what was saved.

    """
    manifest = read_manifest(folder)
    for name, wanted in manifest.files.items():
        file = folder / name
        if not is_file(file):
            raise CheckpointError(
                f"{file}: missing; {folder.name} cannot be used: remove it to go on from an older one"
            )
        if describe_file(file) != wanted:
            raise CheckpointError(
                f"{file}: not the file that was saved (its size or sha256 differs); {folder.name} cannot be used: "
                "remove it to go on from an older one"
            )
    return manifest
