"""SIGTERM (preemption, `ray job stop`) and Ctrl-C: asked once, the run saves what there is and ends; twice, it ends."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from rayrlhf.errors import InterruptedRunError


class Interruption:
    """Whether somebody has asked the run to end, and until when it may take to save."""

    def __init__(self, grace_s: float) -> None:
        self._grace_s = grace_s
        self._signal: int | None = None
        self._deadline = 0.0

    @contextmanager
    def listening(self) -> Iterator[None]:
        """While the block runs, signals are requests."""
        before = {number: signal.signal(number, self._request) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @property
    def requested(self) -> bool:
        """Whether to come to an end."""
        return self._signal is not None

    @property
    def overdue(self) -> bool:
        """Whether the time for saving is over."""
        return self.requested and time.monotonic() > self._deadline

    def error(self, saved: str) -> InterruptedRunError:
        """What to end with."""
        assert self._signal is not None
        return InterruptedRunError(f"interrupted by {signal.Signals(self._signal).name}: {saved}", 128 + self._signal)

    def _request(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self._signal = number
        self._deadline = time.monotonic() + self._grace_s
