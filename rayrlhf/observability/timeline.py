"""A Chrome/Perfetto trace of what ran when. Spans are collected in memory and written as JSON; a watcher hears of each
as it begins.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rayrlhf.data.durable import write_durably

NEWEST = 100_000
"""Spans that are kept; a step has half a dozen."""
Watcher = Callable[[str, int], None]


class Timeline:
    """The spans of one process."""

    def __init__(self, role: str = "driver", watchers: Sequence[Watcher] = ()) -> None:
        self._role = role
        self._watchers = list(watchers)
        self._events: deque[dict[str, Any]] = deque(maxlen=NEWEST)

    def watch(self, watcher: Watcher) -> None:
        """Let `watcher(name, step)` hear of every span as it begins."""
        self._watchers.append(watcher)

    @contextmanager
    def span(self, name: str, step: int) -> Iterator[None]:
        """Record how long the block took."""
        for watcher in self._watchers:
            watcher(name, step)
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
        write_durably(path, json.dumps({"traceEvents": list(self._events)}).encode())
