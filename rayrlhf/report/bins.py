"""A series as the points of a chart: one a step, or one for several steps where the run is long."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rayrlhf.report.catalogue import Chart, Series
from rayrlhf.report.numbers import Unit

MOST_BINS = 120


@dataclass(frozen=True, slots=True)
class Bin:
    """The steps `first` to `last` as one point: their mean and what is around it, None where no step has a value."""

    first: int
    last: int
    value: float | None
    low: float
    high: float

    @property
    def middle(self) -> float:
        """Where the point is on the step axis."""
        return (self.first + self.last) / 2


def binned(chart: Chart, steps: Sequence[int]) -> list[list[Bin]]:
    """Each series of the chart over the same bins, in the chart's unit."""
    size = math.ceil(len(steps) / MOST_BINS)
    groups = [steps[start : start + size] for start in range(0, len(steps), size)]
    return [[_bin(series, group, chart.unit) for group in groups] for series in chart.series]


def stacked(rows: Sequence[Sequence[Bin]]) -> list[list[Bin]]:
    """Each series on top of those before it: `low` is where it stands, `high` where it ends."""
    floors = [0.0] * len(rows[0])
    found = []
    for bins in rows:
        tops = [floor + max(bin_.value or 0.0, 0.0) for floor, bin_ in zip(floors, bins, strict=True)]
        found.append([Bin(b.first, b.last, b.value, *ends) for b, *ends in zip(bins, floors, tops, strict=True)])
        floors = tops
    return found


def stretches(bins: Sequence[Bin]) -> Iterator[list[Bin]]:
    """Bins with values, without a gap."""
    stretch: list[Bin] = []
    for bin_ in bins:
        if bin_.value is not None:
            stretch.append(bin_)
        elif stretch:
            yield stretch
            stretch = []
    if stretch:
        yield stretch


def _bin(series: Series, steps: Sequence[int], unit: Unit) -> Bin:
    """The band is the series' own, else from the lowest to the highest value."""
    found = [step for step in steps if step in series.values]
    if not found:
        return Bin(steps[0], steps[-1], None, 0.0, 0.0)
    values = [series.values[step] * unit.scale for step in found]
    mean = sum(values) / len(values)
    if series.spread:
        half = sum(abs(series.spread.get(step, 0.0)) for step in found) * unit.scale / len(found)
        return Bin(steps[0], steps[-1], mean, mean - half, mean + half)
    return Bin(steps[0], steps[-1], mean, min(values), max(values))
