"""What happened to a run besides its steps: begin and end, failures, recoveries, saves. One JSON object a line.

Events tell of a run and decide nothing, so one that cannot be written is shown, and the run goes on.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rayrlhf.data.append_log import AppendLog

Show = Callable[[str], None]


class EventLog:
    """`events.jsonl` of a run; what people should see at once also goes to `show`."""

    def __init__(self, path: Path | None = None, show: Show | None = None) -> None:
        self._lines = AppendLog(path) if path is not None else None
        self._show = show
        self._step: int | None = None

    def under_way(self, phase: str, step: int) -> None:
        """Watches a timeline: what happens from here on belongs to `step`."""
        self._step = step

    def record(self, event: str, message: str, **fields: Any) -> None:
        """Append an event: `event` is its kind, `message` a sentence for people, `fields` whatever tools want."""
        message += self.note(event, message, **fields)
        if self._show:
            self._show(message)

    def note(self, event: str, message: str, **fields: Any) -> str:
        """The same, without showing it; returns what to add for people where it could not be written."""
        step = {} if self._step is None else {"step": self._step}
        row = {"time": round(time.time(), 3), "event": event, "message": message, **step, **fields}
        try:
            if self._lines is not None:
                self._lines.append(json.dumps(row).encode() + b"\n")
        except OSError as error:
            return f" (this event could not be written: {error})"
        return ""
