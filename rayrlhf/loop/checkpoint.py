"""Checkpoints: complete or not there at all.

    checkpoints/step-000010/{policy,critic}/shard-*.safetensors, state.json, and last of all manifest.json

The manifest holds every file's size and digest. A folder without one is a torn save: ignored, and cleared by the next.
Older checkpoints go only after the new manifest is durable.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from rayrlhf.errors import CheckpointError
from rayrlhf.loop.progress import Progress

MANIFEST = "manifest.json"


class CheckpointStore:
    """The checkpoints of one run."""

    def __init__(self, directory: Path, keep: int, config_digest: str) -> None:
        self._directory = directory
        self._keep = keep
        self._config_digest = config_digest

    def save(self, progress: Progress, write: Callable[[Path], None]) -> Path:
        """Let `write` fill a folder with the roles' shards, then make it a checkpoint and rotate."""
        folder = self._directory / f"step-{progress.step:06d}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        write(folder)
        (folder / "state.json").write_text(json.dumps(asdict(progress), indent=1), encoding="utf-8")
        files = {str(f.relative_to(folder)): _describe(f) for f in sorted(folder.rglob("*")) if f.is_file()}
        manifest = {"config_digest": self._config_digest, **asdict(progress), "files": files}
        _write_durably(folder / MANIFEST, json.dumps(manifest, indent=1))
        for old in self.complete()[: -self._keep]:
            (old / MANIFEST).unlink()
            shutil.rmtree(old)
        return folder

    def complete(self) -> list[Path]:
        """Folders with a manifest, oldest first."""
        return sorted(m.parent for m in self._directory.glob(f"step-*/{MANIFEST}"))

    def newest(self) -> Path | None:
        """The newest complete checkpoint."""
        return found[-1] if (found := self.complete()) else None


def load_progress(folder: Path, config_digest: str) -> Progress:
    """Check every file of a checkpoint against its manifest and return where the run was.

    Raises:
        CheckpointError: no manifest, a file is missing or damaged, or the config has changed.

    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{folder}: not a complete checkpoint (no {MANIFEST})") from None
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{folder / MANIFEST}: damaged: {error}") from None
    for name, wanted in manifest["files"].items():
        file = folder / name
        if not file.is_file() or _describe(file) != wanted:
            raise CheckpointError(f"{file}: missing, or not the file that was saved")
    if manifest["config_digest"] != config_digest:
        raise CheckpointError(
            f"{folder}: the config is not the one this run was started with (see config.toml in the run directory); "
            "give the run another `name`, or undo the change"
        )
    return Progress(manifest["step"], manifest["version"], manifest["kl_coefficient"])


def _describe(file: Path) -> dict[str, int | str]:
    with file.open("rb") as stream:
        return {"bytes": file.stat().st_size, "sha256": hashlib.file_digest(stream, "sha256").hexdigest()}


def _write_durably(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
