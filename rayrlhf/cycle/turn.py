"""A turn's memory: which stages are done and what they found. What is in here is not done again.

runs/cycle/turn-0001/turn.json     {"stages": {"collect": {…}, "sft": {…}, …}, "decision": "promoted"}
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rayrlhf.data.durable import entries, is_file, read_bytes, write_durably
from rayrlhf.errors import DataError

DECISION = "decision"
FILE = "turn.json"


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of the loop, in its directory."""

    folder: Path

    def found(self, stage: str) -> dict[str, Any] | None:
        """What a stage that is done has found."""
        return self._read().get(stage)

    def once(self, stage: str, do: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What a stage finds: by doing it now, unless it is done."""
        if (found := self.found(stage)) is not None:
            return found
        found = {**do(), "at": datetime.now(UTC).isoformat(timespec="seconds")}
        write_durably(self.folder / FILE, json.dumps({**self._read(), stage: found}, indent=1).encode())
        return found

    @property
    def is_decided(self) -> bool:
        """Whether there is nothing left to do."""
        return self.found(DECISION) is not None

    def _read(self) -> dict[str, Any]:
        path = self.folder / FILE
        try:
            found = json.loads(read_bytes(path))
        except FileNotFoundError:
            return {}
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise DataError(f"{path}: damaged: not a JSON object; move the turn's folder away to begin it again")
        return found


def turns(root: Path) -> list[Turn]:
    """All turns that have begun, oldest first."""
    folders = [folder for folder in entries(root) if folder.name.startswith("turn-")]
    return [Turn(folder) for folder in folders if is_file(folder / FILE)]


def next_turn(root: Path, number: int) -> Turn:
    """The turn of a number."""
    return Turn(root / f"turn-{number:04d}")
