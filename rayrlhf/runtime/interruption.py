"""SIGTERM (preemption, `ray job stop`) and Ctrl-C: asked once, the run saves what there is and ends; twice, it ends.

The handler only takes a note, because an exception raised inside Ray's native code comes out as another one. Whoever
waits calls `raise_if_due` again and again; it ends the wait when there is nothing to save, or no time left for it.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from rayrlhf.errors import InterruptedRunError

_listening: list[Interruption] = []


class Interruption:
    """Whether somebody has asked the run to end, and until when it may take to save."""

    def __init__(self, grace_s: float) -> None:
        self._grace_s = grace_s
        self._saves = False
        self._signals: list[int] = []
        self._deadline = 0.0

    @contextmanager
    def listening(self) -> Iterator[None]:
        """While the block runs, signals are requests."""
        before = {number: signal.signal(number, self._request) for number in (signal.SIGTERM, signal.SIGINT)}
        _listening.append(self)
        try:
            yield
        finally:
            _listening.remove(self)
            for number, handler in before.items():
                signal.signal(number, handler)

    def wait_for_saves(self) -> None:
        """From now on there is something to save, so a request does not end the run at once."""
        self._saves = True

    @property
    def requested(self) -> bool:
        """Whether to come to an end."""
        return bool(self._signals)

    @property
    def due(self) -> str | None:
        """Why to end now, without saving; None while there is no reason to."""
        if not self._signals:
            return None
        if not self._saves:
            return "nothing had begun; --resume auto goes on from what there is"
        if len(self._signals) > 1:
            return "asked twice, so nothing more was saved; --resume auto goes on from the last checkpoint"
        if time.monotonic() > self._deadline:
            return "no time to save; --resume auto goes on from the last checkpoint"
        return None

    def error(self, saved: str) -> InterruptedRunError:
        """What to end with."""
        number = self._signals[0]
        return InterruptedRunError(f"interrupted by {signal.Signals(number).name}: {saved}", 128 + number)

    def _request(self, number: int, frame: FrameType | None) -> None:
        if not self._signals:
            self._deadline = time.monotonic() + self._grace_s
        self._signals.append(number)


def raise_if_due() -> None:
    """Raise the InterruptedRunError of whoever listens, if it is time to end without saving."""
    for interruption in _listening:
        if (why := interruption.due) is not None:
            raise interruption.error(why)
