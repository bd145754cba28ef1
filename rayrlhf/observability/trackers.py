"""Where a step's metrics go: `metrics.jsonl`, TensorBoard, the terminal. Names are `phase/name_unit`.

`metrics.jsonl` is part of the run's record, so a row that cannot be written is an error.
"""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

from rayrlhf.data.append_log import AppendLog
from rayrlhf.data.durable import is_local
from rayrlhf.errors import CheckpointError, StorageError
from rayrlhf.role_types import Sample


class Tracker(Protocol):
    """Takes a step's metrics and samples."""

    def log(self, step: int, metrics: Mapping[str, float], samples: Sequence[Sample]) -> None:
        """Record step `step` (1-based)."""
        ...


class JsonlTracker:
    """One JSON object a step. A step that is computed again, after a training rank was lost, keeps its row.

    A row is durable when `log` returns; with `delay_s`, remote ones may wait that long, or for `flush`.
    """

    def __init__(self, path: Path, keep_through: int = 0, delay_s: float = 0.0) -> None:
        self._rows = AppendLog(path, delay_s)
        found, steps = self._rows.lines(), logged_steps(path)
        kept = sum(step <= keep_through for step in steps)
        self.last_step = steps[kept - 1] if kept else 0
        if kept < len(found):
            self._rows.replace(found[:kept])

    def log(self, step: int, metrics: Mapping[str, float], samples: Sequence[Sample]) -> None:
        """Append the step; numbers that are not finite become null, which is what JSON has."""
        if step <= self.last_step:
            return
        finite = {name: value if math.isfinite(value) else None for name, value in sorted(metrics.items())}
        self._rows.append(json.dumps({"step": step, **finite}).encode() + b"\n")
        self.last_step = step

    def flush(self) -> None:
        """Return when every row is durable."""
        self._rows.flush()


def logged_steps(path: Path) -> list[int]:
    """The steps that have rows, in order.

    Raises:
        CheckpointError: a line is damaged; it is named.

    """
    steps = []
    for number, line in enumerate(AppendLog(path).lines(), start=1):
        try:
            steps.append(int(json.loads(line)["step"]))
        except (ValueError, KeyError, TypeError):
            raise CheckpointError(f"{path}, line {number}: damaged; remove the line") from None
    return steps


class TensorBoardTracker:
    """Scalars and samples for TensorBoard, whose own files are local ones: for a URL it would write one object anew,
    or make a request, for every number.
    """

    def __init__(self, folder: Path, keep_through: int = 0) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._last_step = keep_through
        self._writer = SummaryWriter(str(folder), purge_step=keep_through + 1 if keep_through else None)

    def log(self, step: int, metrics: Mapping[str, float], samples: Sequence[Sample]) -> None:
        """Write the step."""
        if step <= self._last_step:
            return
        self._last_step = step
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)
        for i, sample in enumerate(samples):
            self._writer.add_text(f"sample/{i}", f"**{sample.prompt}**\n\n{sample.response}", step)
        self._writer.flush()


def tensorboard_trackers(folder: Path, keep_through: int) -> list[Tracker]:
    """The tracker for a local folder; none for a URL."""
    return [TensorBoardTracker(folder, keep_through)] if is_local(folder) else []


@contextmanager
def following(
    path: Path, show: Callable[[dict[str, float]], None], after_step: int = 0, every_s: float | None = None
) -> Iterator[None]:
    """While the block runs, `show` every row after `after_step` that another process appends, each step once.

    It looks every `every_s` seconds; where none is given, more often at a local file than at an object.
    """
    every_s = every_s or (0.5 if is_local(path) else 5.0)
    JsonlTracker(path, after_step)  # rows that will be written again go
    rows, finished = AppendLog(path), threading.Event()
    shown = after_step

    def show_new() -> None:
        nonlocal shown
        for row in map(json.loads, rows.lines()):
            if row["step"] > shown:
                shown = row["step"]
                show(row)

    def watch() -> None:
        while not finished.wait(every_s):
            with suppress(StorageError):  # the next look shows what this one did not
                show_new()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        finished.set()
        watcher.join()
        with suppress(StorageError):  # what was computed is no worse for not being shown
            show_new()
