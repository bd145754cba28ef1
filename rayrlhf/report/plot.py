"""Where a chart's lines, ticks and marks are, as SVG needs them; `plots.html` draws it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from rayrlhf.report.bins import Bin, binned, stacked, stretches
from rayrlhf.report.catalogue import Chart
from rayrlhf.report.marks import Mark
from rayrlhf.report.numbers import Unit, number, tick_texts, ticks

WIDTH, HEIGHT = 400, 190
LEFT, RIGHT, TOP, BOTTOM = 48, 392, 10, 164
COLOURS = 8


@dataclass(frozen=True, slots=True)
class Tick:
    """A place on an axis and its words."""

    at: float
    text: str


def placed(values: Sequence[float], place: Callable[[float], float]) -> list[Tick]:
    """Ticks of an axis."""
    return [Tick(place(value), text) for value, text in zip(values, tick_texts(values), strict=True)]


@dataclass(frozen=True, slots=True)
class Line:
    """A series as path data, and its newest value in words."""

    label: str
    colour: int
    path: str
    band: str
    latest: str


@dataclass(frozen=True, slots=True)
class Spot:
    """What the pointer finds above some steps; `dots` are the lines' places there, with their colours as text."""

    x: float
    left: float
    width: float
    title: str
    dots: Sequence[Tick]


@dataclass(frozen=True, slots=True)
class PlacedMark:
    """A mark above the step axis."""

    x: float
    mark: Mark


@dataclass(frozen=True, slots=True)
class Plot:
    """A chart that is ready to be drawn."""

    title: str
    meaning: str
    unit: str
    words: str
    """The chart for people who do not see it."""
    stacked: bool
    lines: Sequence[Line]
    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick]
    spots: Sequence[Spot]
    marks: Sequence[PlacedMark]


@dataclass(frozen=True, slots=True)
class _Frame:
    """Maps steps and values into the drawing."""

    first: float
    last: float
    low: float
    high: float

    def x(self, step: float) -> float:
        """From the left."""
        place = (min(max(step, self.first), self.last) - self.first) / (self.last - self.first)
        return round(LEFT + place * (RIGHT - LEFT), 1)

    def y(self, value: float) -> float:
        """From the top."""
        return round(BOTTOM - (value - self.low) / (self.high - self.low) * (BOTTOM - TOP), 1)


def plot(chart: Chart, steps: Sequence[int], marks: Sequence[Mark]) -> Plot:
    """Lay a chart out over the run's steps."""
    rows = binned(chart, steps)
    shown = stacked(rows) if chart.stacked else rows
    frame = _frame(shown, steps, from_zero=chart.stacked)
    return Plot(
        chart.title,
        chart.meaning,
        chart.unit.name,
        _words(chart),
        chart.stacked,
        [_line(chart, index, bins, frame) for index, bins in enumerate(shown)],
        placed(_step_ticks(frame), frame.x),
        placed(ticks(frame.low, frame.high), frame.y),
        list(_spots(chart, rows, frame)),
        [PlacedMark(frame.x(mark.step), mark) for mark in marks],
    )


def _line(chart: Chart, index: int, bins: Sequence[Bin], frame: _Frame) -> Line:
    series = chart.series[index]
    path, band = (_bars(bins, frame), "") if chart.stacked else (_path(bins, frame), _band(bins, frame))
    return Line(series.label, index % COLOURS, path, band, chart.unit.text(series.values[max(series.values)], 3))


def _frame(shown: Sequence[Sequence[Bin]], steps: Sequence[int], *, from_zero: bool) -> _Frame:
    """Axes with a little air; a run of one step gets half a step on either side."""
    bins = [bin_ for row in shown for bin_ in row if bin_.value is not None]
    low, high = min(bin_.low for bin_ in bins), max(bin_.high for bin_ in bins)
    low = 0.0 if from_zero else low
    air = (high - low) * 0.05
    if air <= max(abs(low), abs(high), 1e-9) * 1e-9:
        air = max(abs(low), abs(high)) * 0.1 or 1.0
    side = 0.5 if from_zero or len(steps) == 1 else 0.0
    return _Frame(steps[0] - side, steps[-1] + side, low if from_zero else low - air, high + air)


def _step_ticks(frame: _Frame) -> list[float]:
    """Whole steps, fewer where their numbers are long."""
    found = ticks(frame.first, frame.last, 7 if frame.last < 10_000 else 5)
    return list(dict.fromkeys(step for step in found if step == int(step)))


def _path(bins: Sequence[Bin], frame: _Frame) -> str:
    """A line with gaps; a point alone is a short dash."""
    parts = []
    for run in stretches(bins):
        points = [f"{frame.x(b.middle):g} {frame.y(b.value or 0.0):g}" for b in run]
        parts.append(f"M{'L'.join(points)}" if len(points) > 1 else f"M{points[0]}m-3 0h6")
    return "".join(parts)


def _band(bins: Sequence[Bin], frame: _Frame) -> str:
    """From the lows forth to the highs and back; nothing where they are the same."""
    parts = []
    for run in stretches(bins):
        if len(run) > 1 and any(b.high > b.low for b in run):
            there = [f"{frame.x(b.middle):g} {frame.y(b.high):g}" for b in run]
            back = [f"{frame.x(b.middle):g} {frame.y(b.low):g}" for b in reversed(run)]
            parts.append(f"M{'L'.join(there + back)}Z")
    return "".join(parts)


def _bars(bins: Sequence[Bin], frame: _Frame) -> str:
    """One bar a bin, as one path."""
    parts = []
    for bin_ in bins:
        left, right = frame.x(bin_.first - 0.5), frame.x(bin_.last + 0.5)
        gap = min(1.0, (right - left) * 0.2)
        top, bottom = frame.y(bin_.high), frame.y(bin_.low)
        if bin_.value is not None and bottom > top:
            parts.append(f"M{left + gap / 2:g} {bottom:g}V{top:g}H{right - gap / 2:g}V{bottom:g}Z")
    return "".join(parts)


def _spots(chart: Chart, rows: Sequence[Sequence[Bin]], frame: _Frame) -> Iterator[Spot]:
    """A strip above every bin, to its neighbours' middles, that names its values."""
    places = [frame.x(bin_.middle) for bin_ in rows[0]]
    edges = [LEFT, *((a + b) / 2 for a, b in pairwise(places)), RIGHT]
    for index, x in enumerate(places):
        here = [(row, bins[index]) for row, bins in enumerate(rows) if bins[index].value is not None]
        if here:
            values = [f"{chart.series[row].label} {_valued(bin_, chart, row)}" for row, bin_ in here]
            dots = [] if chart.stacked else [Tick(frame.y(b.value or 0.0), str(row % COLOURS)) for row, b in here]
            width = edges[index + 1] - edges[index]
            yield Spot(x, round(edges[index], 1), round(width, 1), "\n".join([_when(here[0][1]), *values]), dots)


def _when(bin_: Bin) -> str:
    return f"step {bin_.first:,}" if bin_.first == bin_.last else f"steps {bin_.first:,} to {bin_.last:,}, means"


def _valued(bin_: Bin, chart: Chart, row: int) -> str:
    """A bin's number with its unit and what is around it."""
    unit = Unit(chart.unit.name)  # bins are scaled already
    text = unit.text(bin_.value or 0.0)
    if chart.series[row].spread:
        return f"{text} ± {number((bin_.high - bin_.low) / 2)}"
    return text if bin_.first == bin_.last else f"{text} ({number(bin_.low)} to {number(bin_.high)})"


def _words(chart: Chart) -> str:
    """What a sighted reader takes from the chart."""
    parts = []
    for series in chart.series[:COLOURS]:
        first, last = min(series.values), max(series.values)
        low, high = min(series.values.values()), max(series.values.values())
        show = chart.unit.text
        parts.append(
            f"{series.label}: {show(series.values[first])} at step {first}, {show(series.values[last])} at step {last}"
            f", lowest {show(low)}, highest {show(high)}"
        )
    return f"{chart.title} by step. {'; '.join(parts)}."
