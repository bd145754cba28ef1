"""What happened to a run besides its steps: begin and end, failures, recoveries, saves. One JSON object a line."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Show = Callable[[str], None]


class EventLog:
    """`events.jsonl` of a run; what people should see at once also goes to `show`."""

    def __init__(self, path: Path | None = None, show: Show | None = None) -> None:
        self._path, self._show = path, show
        self._step: int | None = None

    def under_way(self, phase: str, step: int) -> None:
        """Watches a timeline: what happens from here on belongs to `step`."""
        self._step = step

    def record(self, event: str, message: str, **fields: Any) -> None:
        """Append an event: `event` is its kind, `message` a sentence for people, `fields` whatever tools want."""
        self.note(event, message, **fields)
        if self._show:
            self._show(message)

    def note(self, event: str, message: str, **fields: Any) -> None:
        """The same, without showing it."""
        if self._path is not None:
            step = {} if self._step is None else {"step": self._step}
            row = {"time": round(time.time(), 3), "event": event, "message": message, **step, **fields}
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
