"""How rewards are spread in the first and the last committed step, as bars side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rayrlhf.report.numbers import number, ticks
from rayrlhf.report.plot import BOTTOM, LEFT, RIGHT, TOP, Tick, placed
from rayrlhf.report.samples import StepSamples

FEWEST_BINS, MOST_BINS = 6, 24


@dataclass(frozen=True, slots=True)
class Bar:
    """A share of a step's answers, as a rectangle; `group` is the step's place among those compared."""

    x: float
    y: float
    width: float
    height: float
    group: int
    title: str


@dataclass(frozen=True, slots=True)
class Histogram:
    """Ready to be drawn; the groups are the steps."""

    words: str
    groups: Sequence[str]
    bars: Sequence[Bar]
    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick]


@dataclass(frozen=True, slots=True)
class _Bins:
    """Equal bins from the lowest to the highest reward."""

    low: float
    high: float
    count: int

    def share_below(self, reward: float) -> float:
        """Where a reward is between the lowest and the highest, 0 to 1."""
        return (reward - self.low) / (self.high - self.low)

    def counts(self, rewards: Sequence[float]) -> list[int]:
        """How many rewards are in each bin."""
        counts = [0] * self.count
        for reward in rewards:
            counts[min(int(self.share_below(reward) * self.count), self.count - 1)] += 1
        return counts

    def words(self, index: int) -> str:
        """From where to where a bin is."""
        edges = [self.low + (self.high - self.low) * edge / self.count for edge in (index, index + 1)]
        return f"{number(edges[0])} to {number(edges[1])}"


def reward_histogram(samples: Sequence[StepSamples]) -> Histogram | None:
    """Of the first and last step that have rewards; None where there are no two rewards that differ."""
    scored = [step for step in samples if step.rewards]
    compared = [scored[0], scored[-1]] if len(scored) > 1 else scored
    rewards = [reward for step in compared for reward in step.rewards]
    if not rewards or not 1e-9 < max(rewards) - min(rewards) < 1e100:
        return None
    bins = _Bins(min(rewards), max(rewards), min(max(round(1.5 * len(rewards) ** 0.5), FEWEST_BINS), MOST_BINS))
    tallest = max(max(bins.counts(step.rewards)) / len(step.rewards) for step in compared)
    return Histogram(
        " ".join(_words(step) for step in compared),
        [f"step {step.step:,}" for step in compared],
        list(_bars(compared, bins, tallest)),
        placed(ticks(bins.low, bins.high), lambda reward: _x(bins.share_below(reward))),
        placed(ticks(0.0, 100 * tallest), lambda percent: _y(percent / 100 / tallest)),
    )


def _bars(compared: Sequence[StepSamples], bins: _Bins, tallest: float) -> Iterator[Bar]:
    room = (RIGHT - LEFT) / bins.count
    width = (room - 2) / len(compared)
    for group, step in enumerate(compared):
        for index, count in enumerate(bins.counts(step.rewards)):
            if count:
                left, top = LEFT + index * room + 1 + group * width, _y(count / len(step.rewards) / tallest)
                title = f"step {step.step:,}\n{bins.words(index)}: {count} of {len(step.rewards)} answers"
                yield Bar(round(left, 1), top, round(width, 1), round(BOTTOM - top, 1), group, title)


def _x(share: float) -> float:
    return round(LEFT + share * (RIGHT - LEFT), 1)


def _y(share: float) -> float:
    return round(BOTTOM - share * (BOTTOM - TOP), 1)


def _words(step: StepSamples) -> str:
    ordered = sorted(step.rewards)
    return (
        f"Rewards of step {step.step}: {len(ordered)} answers from {number(ordered[0])} to {number(ordered[-1])}, "
        f"median {number(ordered[len(ordered) // 2])}."
    )
