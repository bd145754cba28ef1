"""A Chrome/Perfetto trace of what ran when. Spans are collected in memory and written as JSON; a watcher hears of each
as it begins.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class Timeline:
    """The spans of one process."""

    def __init__(self, role: str = "driver", watcher: Callable[[str, int], None] | None = None) -> None:
        self._role = role
        self._watcher = watcher
        self._events: list[dict[str, Any]] = []

    @contextmanager
    def span(self, name: str, step: int) -> Iterator[None]:
        """Record how long the block took."""
        if self._watcher:
            self._watcher(name, step)
        started = time.time()
        try:
            yield
        finally:
            self._events.append(
                {
                    "name": name,
                    "ph": "X",
                    "ts": started * 1e6,
                    "dur": (time.time() - started) * 1e6,
                    "pid": self._role,
                    "tid": name,
                    "args": {"step": step},
                }
            )

    def write(self, path: Path) -> None:
        """Write what was recorded, openable in ui.perfetto.dev."""
        path.write_text(json.dumps({"traceEvents": self._events}), encoding="utf-8")
