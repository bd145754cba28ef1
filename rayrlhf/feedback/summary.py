"""What the store says: counts, how far people agree, and how policy versions fare, over all time and day by day."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date

from rayrlhf.algorithms.proportions import wilson_interval
from rayrlhf.feedback.agreement import Agreement, agreement, labels_of
from rayrlhf.feedback.reading import Snapshot


@dataclass(frozen=True, slots=True)
class Counts:
    """What counts now; votes that were changed later are not in here."""

    answers: int
    answers_forgotten: int
    labellers: int
    thumbs: int
    ratings: int
    corrections: int
    flags: int
    comparisons: int
    rankings: int
    """Comparisons of three answers or more; they are in `comparisons` too."""
    with_ties: int
    both_bad: int


@dataclass(frozen=True, slots=True)
class Share:
    """Points out of trials, with Wilson's 95 % interval."""

    points: float
    trials: int
    share: float | None
    low: float
    high: float

    @classmethod
    def of(cls, points: Iterable[float]) -> Share:
        """From 1 (won), 0.5 (a tie) and 0 of each trial."""
        points = list(points)
        low, high = wilson_interval(sum(points), len(points))
        return cls(sum(points), len(points), sum(points) / len(points) if points else None, low, high)


@dataclass(frozen=True, slots=True)
class VersionRecord:
    """How one policy version fares; `day` (UTC) is none for all time.

    Pairs of one ranking, and of one labeller, depend on each other: with many of them the interval is too narrow.
    """

    policy_version: int
    day: date | None
    wins: Share
    """Over pairs with an answer of another version; a tie is half a point."""
    thumbs_up: Share
    mean_rating: float | None
    ratings: int


@dataclass(frozen=True, slots=True)
class Summary:
    """Everything that `rayrlhf feedback stats` prints and `GET /v1/overview` gives."""

    counts: Counts
    agreement: Agreement
    versions: tuple[VersionRecord, ...]
    days: tuple[VersionRecord, ...]


@dataclass(frozen=True, slots=True)
class _Event:
    """One number about one version on one day."""

    version: int
    day: date
    kind: str
    value: float


def summarise(snapshot: Snapshot) -> Summary:
    """Compute all statistics."""
    events = [*_wins(snapshot), *_opinions(snapshot)]
    by_version: dict[int, list[_Event]] = defaultdict(list)
    by_day: dict[tuple[int, date], list[_Event]] = defaultdict(list)
    for event in events:
        by_version[event.version].append(event)
        by_day[event.version, event.day].append(event)
    return Summary(
        counts=_counts(snapshot),
        agreement=agreement([*said.values()] for said in labels_of(snapshot.comparisons).values()),
        versions=tuple(_record(version, None, group) for version, group in sorted(by_version.items())),
        days=tuple(_record(version, day, group) for (version, day), group in sorted(by_day.items())),
    )


def _wins(snapshot: Snapshot) -> Iterator[_Event]:
    version_of = {id: answer.policy_version for id, answer in snapshot.answers.items()}
    for comparison in snapshot.comparisons:
        day = comparison.at.date()
        for (one, other), label in comparison.pairs.items():
            if version_of[one] != version_of[other]:
                yield _Event(version_of[one], day, "win", (1 + label) / 2)
                yield _Event(version_of[other], day, "win", (1 - label) / 2)


def _opinions(snapshot: Snapshot) -> Iterator[_Event]:
    for opinion in snapshot.opinions:
        if opinion.value is not None:
            version = snapshot.answers[opinion.response_id].policy_version
            value = float(opinion.value > 0) if opinion.kind == "thumb" else float(opinion.value)
            yield _Event(version, opinion.at.date(), opinion.kind, value)


def _record(version: int, day: date | None, events: list[_Event]) -> VersionRecord:
    ratings = [event.value for event in events if event.kind == "rating"]
    return VersionRecord(
        policy_version=version,
        day=day,
        wins=Share.of(event.value for event in events if event.kind == "win"),
        thumbs_up=Share.of(event.value for event in events if event.kind == "thumb"),
        mean_rating=sum(ratings) / len(ratings) if ratings else None,
        ratings=len(ratings),
    )


def _counts(snapshot: Snapshot) -> Counts:
    kinds = [opinion.kind for opinion in snapshot.opinions]
    compared = snapshot.comparisons
    return Counts(
        answers=len(snapshot.answers) - len(snapshot.erased),
        answers_forgotten=len(snapshot.erased),
        labellers=len({vote.user for vote in snapshot.opinions} | {comparison.user for comparison in compared}),
        thumbs=kinds.count("thumb"),
        ratings=kinds.count("rating"),
        corrections=kinds.count("correction"),
        flags=kinds.count("flag"),
        comparisons=len(compared),
        rankings=sum(len(comparison.ranks) > 2 for comparison in compared),
        with_ties=sum(len(set(comparison.ranks)) < len(comparison.ranks) for comparison in compared),
        both_bad=sum(comparison.both_bad for comparison in compared),
    )
