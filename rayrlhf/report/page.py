"""The page itself: `templates/report.html` filled with a run's history. Everything that comes from data is escaped."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from rayrlhf import __version__
from rayrlhf.data.durable import as_path, entries, exists, is_file, write_durably
from rayrlhf.errors import InputError, RunError
from rayrlhf.report.catalogue import Chart, arrange
from rayrlhf.report.histogram import reward_histogram
from rayrlhf.report.history import History, read_history
from rayrlhf.report.marks import Mark, event_rows, marks
from rayrlhf.report.numbers import moment, number, size_of
from rayrlhf.report.plot import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Plot, plot
from rayrlhf.report.samples import read_samples
from rayrlhf.report.status import final_numbers, key_numbers, status_of, title_of
from rayrlhf.stages.run_directory import RunDirectory

MOST_OTHER_CHARTS = 40
MOST_ROWS = 100
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
"""What HTML or UTF-8 has no place for."""


@dataclass(frozen=True, slots=True)
class Link:
    """A part of the run directory that is there."""

    path: str
    meaning: str


def report(run: str) -> Path:
    """`rayrlhf report RUN`: write the page of the run at a path or URL; returns where it is.

    Raises:
        InputError: there is no run.

    """
    try:
        directory = RunDirectory(as_path(run))
    except (ValueError, ImportError) as error:
        raise InputError(f"{run}: not a path or URL of a run directory: {error}") from None
    _require_run(directory.root)
    return write_report(directory)


def write_report(directory: RunDirectory) -> Path:
    """Write `report.html` of a run; an older one is replaced in one step.

    Raises:
        RunError: the page cannot be written.

    """
    page = render(directory).encode()
    try:
        write_durably(directory.report, page)
    except OSError as error:
        raise RunError(f"{directory.report}: cannot be written: {error}") from None
    return directory.report


def render(directory: RunDirectory) -> str:
    """The page as text; writes nothing."""
    history = read_history(directory)
    samples = read_samples(directory, history.damage)
    page = (
        _environment()
        .get_template("report.html")
        .render(**_parts(history), samples=samples, histogram=reward_histogram(samples), damage=history.damage.notes)
    )
    return _CONTROL.sub("·", page)


@cache
def _environment() -> Environment:
    """Templates in which every value is escaped and none may be missing."""
    found = Environment(
        loader=PackageLoader("rayrlhf.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.globals |= {"width": WIDTH, "height": HEIGHT, "left": LEFT, "right": RIGHT, "top": TOP, "bottom": BOTTOM}
    found.filters |= {"number": number, "size": size_of, "count": "{:,}".format}
    return found


def _require_run(root: Path) -> None:
    """InputError where the folder is none of a run; it names runs that are below."""
    try:
        if not exists(root) or is_file(root):
            raise InputError(f"{root}: no such run directory")
        found = entries(root)
        if {path.name for path in found} & {"config.toml", "metrics.jsonl"}:
            return
        below = [str(path) for path in found if is_file(path / "config.toml")]
    except OSError as error:
        raise InputError(f"{root}: cannot be read: {error}") from None
    hint = f"; did you mean {' or '.join(below[:5])}?" if below else ""
    raise InputError(f"{root}: not a run directory: it has neither config.toml nor metrics.jsonl{hint}")


def _parts(history: History) -> dict[str, object]:
    """What the template names, but for the samples."""
    name, kind = title_of(history)
    charts = arrange(history.columns)
    marked = marks(history.events, history.steps)
    events, events_left_out = event_rows(history.events)
    return {
        "name": name,
        "kind": kind,
        "history": history,
        "status": status_of(history),
        "numbers": key_numbers(history),
        "final": final_numbers(history.result),
        "groups": {group: _plots(found, history, marked) for group, found in charts.groups.items()},
        "other": _plots(charts.other[:MOST_OTHER_CHARTS], history, marked),
        "other_left_out": len(charts.other[MOST_OTHER_CHARTS:]),
        "constant": charts.constant,
        "tones": {mark.tone for mark in marked},
        "events": events,
        "events_left_out": events_left_out,
        "most_rows": MOST_ROWS,
        "links": _links(history.directory),
        "written": moment(time.time()),
        "version": __version__,
    }


def _plots(charts: Sequence[Chart], history: History, marked: Sequence[Mark]) -> list[Plot]:
    return [plot(chart, history.steps, marked) for chart in charts]


def _links(directory: RunDirectory) -> list[Link]:
    """What else to open, relative to the page."""
    parts = {
        directory.config: "the resolved config",
        directory.metrics: "one JSON object a step",
        directory.trajectories: "every answer, as Parquet",
        directory.checkpoints: "from which a run goes on",
        directory.model: "the exported model, for transformers and vLLM",
        directory.timeline: "when everything ran; open it in Perfetto",
        directory.tensorboard: "the metrics for TensorBoard",
        directory.stacks: "what every role was doing when nothing moved",
    }
    names = {path.name: path.is_dir() for path in entries(directory.root)}
    return [
        Link(path.name + ("/" if names[path.name] else ""), meaning)
        for path, meaning in parts.items()
        if path.name in names
    ]
