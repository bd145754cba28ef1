"""Where a step's metrics go: `metrics.jsonl`, TensorBoard, the terminal. Names are `phase/name_unit`."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from rayrlhf.role_types import Sample


class Tracker(Protocol):
    """Takes a step's metrics and samples."""

    def log(self, step: int, metrics: Mapping[str, float], samples: Sequence[Sample]) -> None:
        """Record step `step` (1-based)."""
        ...


class JsonlTracker:
    """One JSON object a step. A step that is computed again, after a training rank was lost, keeps its row."""

    def __init__(self, path: Path, keep_through: int = 0) -> None:
        self._path = path
        kept = [line for line in _lines(path) if json.loads(line)["step"] <= keep_through]
        self.last_step = json.loads(kept[-1])["step"] if kept else 0
        path.write_text("".join(kept), encoding="utf-8")

    def log(self, step: int, metrics: Mapping[str, float], samples: Sequence[Sample]) -> None:
        """Append the step; numbers that are not finite become null, which is what JSON has."""
        if step <= self.last_step:
            return
        finite = {name: value if math.isfinite(value) else None for name, value in sorted(metrics.items())}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **finite}) + "\n")
        self.last_step = step


class TensorBoardTracker:
    """Scalars and samples for TensorBoard."""

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


@contextmanager
def following(
    path: Path, show: Callable[[dict[str, float]], None], after_step: int = 0, every_s: float = 0.5
) -> Iterator[None]:
    """While the block runs, `show` every row after `after_step` that another process appends, each step once."""
    JsonlTracker(path, after_step)  # rows that will be written again go
    finished = threading.Event()
    shown = after_step

    def show_new() -> None:
        nonlocal shown
        for row in map(json.loads, _lines(path)):
            if row["step"] > shown:
                shown = row["step"]
                show(row)

    def watch() -> None:
        while not finished.wait(every_s):
            show_new()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        finished.set()
        watcher.join()
        show_new()


def _lines(path: Path) -> list[str]:
    """Whole lines; a torn last one is dropped."""
    if not path.is_file():
        return []
    return [line for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]
