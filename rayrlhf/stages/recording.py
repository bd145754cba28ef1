"""A run's beginning and end in its events, and its page at the end, however the run ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rayrlhf.errors import InterruptedRunError
from rayrlhf.observability.events import EventLog
from rayrlhf.report.page import write_report
from rayrlhf.stages.run_directory import RunDirectory


@contextmanager
def recording(directory: RunDirectory, events: EventLog, done: int, steps: int) -> Iterator[None]:
    """Around a run of `steps` steps of which `done` were done before; its exceptions pass through as they are."""
    events.note("started", f"goes on after step {done}" if done else "started", step=done, steps=steps)
    try:
        yield
    except (KeyboardInterrupt, InterruptedRunError) as error:
        _end(directory, events, "interrupted", str(error) or "interrupted by Ctrl-C")
        raise
    except BaseException as error:
        _end(directory, events, "failed", f"{type(error).__name__}: {error}")
        raise
    events.under_way("end", steps)
    _end(directory, events, "finished", "finished", show=False)


def _end(directory: RunDirectory, events: EventLog, kind: str, message: str, *, show: bool = True) -> None:
    """What people find afterwards. A page that cannot be written must not hide, or change, how the run ended."""
    try:
        events.note(kind, message)
        path = write_report(directory)
    except Exception as error:  # noqa: BLE001
        print(f"{directory.report} is not written: {type(error).__name__}: {error}")
    else:
        if show:
            print(f"what happened: {path}")
