"""A file of lines that only grows: metrics, events, rejections; on a local disk and in a store.

    local    append ──▶ the line at the end of the file, synced
    remote   append ──▶ all lines in memory ──▶ the whole object anew, since objects cannot grow

One process at a time appends; any may read. A torn last line, which a crash leaves in a local file, is dropped by
readers and by the next append. A remote append costs one request of the object's size.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from rayrlhf.data.durable import append_durably, is_local, read_bytes, write_durably


class AppendLog:
    """See the module. Lines are bytes that end with a newline."""

    def __init__(self, path: Path, delay_s: float = 0.0) -> None:
        """`delay_s`: how long remote lines may wait in memory, so that fast ones share a request (see `flush`)."""
        self._path = path
        self._delay_s = delay_s
        self._lines: list[bytes] | None = None
        self._written_s = float("-inf")
        self._waiting = False
        self._sound = False

    def lines(self) -> list[bytes]:
        """The whole lines that are in the file now."""
        with suppress(FileNotFoundError):
            return [line + b"\n" for line in read_bytes(self._path).split(b"\n")[:-1]]
        return []

    def replace(self, lines: Sequence[bytes]) -> None:
        """Let the file hold these lines, in one step."""
        write_durably(self._path, b"".join(lines))
        self._lines = None if is_local(self._path) else list(lines)
        self._sound, self._waiting, self._written_s = True, False, time.monotonic()

    def append(self, line: bytes) -> None:
        """Add a line. After an OSError a local line may be lost; a remote one waits for the next append."""
        if is_local(self._path):
            self._append_locally(line)
            return
        if self._lines is None:
            self._lines = self.lines()
        self._lines.append(line)
        self._waiting = True
        if time.monotonic() - self._written_s >= self._delay_s:
            self.flush()

    def flush(self) -> None:
        """Return when every line is durable."""
        if self._waiting and self._lines is not None:
            self.replace(self._lines)

    def _append_locally(self, line: bytes) -> None:
        if not self._sound:  # whoever wrote before may have died in the middle of a line, and nothing may follow it
            self._drop_torn_line()
        self._sound = False
        append_durably(self._path, line)
        self._sound = True

    def _drop_torn_line(self) -> None:
        with suppress(FileNotFoundError):
            found = read_bytes(self._path)
            if not found.endswith(b"\n"):
                self.replace(self.lines())
