"""Events as marks on the charts' step axis, and as words in a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rayrlhf.report.history import Event
from rayrlhf.report.numbers import moment

Tone = Literal["trouble", "caution", "good", "plain"]
TONES: dict[str, Tone] = {
    "failure": "trouble", "failed": "trouble", "save_failed": "trouble", "sync_failed": "trouble", "stall": "trouble",
    "bad_step": "caution", "interrupted": "caution", "recovered": "good", "finished": "good",
}  # fmt: skip
WORST_FIRST: Sequence[Tone] = ("trouble", "caution", "good", "plain")
LONGEST_TITLE = 160
MOST_ROWS = 200
MOST_MARKS = 120
MOST_SAVES = 40


@dataclass(frozen=True, slots=True)
class Mark:
    """What happened in one step, in the tone of the worst of it."""

    step: int
    tone: Tone
    title: str


@dataclass(frozen=True, slots=True)
class EventRow:
    """An event as a row of the table."""

    when: str
    step: int | None
    kind: str
    tone: Tone
    message: str


def tone_of(event: Event) -> Tone:
    """How an event is coloured."""
    return TONES.get(event.kind, "plain")


def marks(events: Sequence[Event], steps: Sequence[int]) -> list[Mark]:
    """One mark a step that has events, the worst drawn last; saves and then the mildest go where there are too many."""
    if sum(event.kind == "saved" for event in events) > MOST_SAVES:
        events = [event for event in events if event.kind != "saved"]
    by_step: dict[int, list[Event]] = {}
    for event in events:
        if event.step is not None and steps and steps[0] - 1 <= event.step <= steps[-1] + 1:
            by_step.setdefault(event.step, []).append(event)
    found = [_mark(step, here) for step, here in sorted(by_step.items())]
    return sorted(found, key=lambda mark: WORST_FIRST.index(mark.tone))[:MOST_MARKS][::-1]


def event_rows(events: Sequence[Event]) -> tuple[list[EventRow], int]:
    """The events as they came, and how many are left out: saves first, then the oldest."""
    kept = list(events)
    if len(kept) > MOST_ROWS:
        kept = [event for event in kept if event.kind != "saved"][-MOST_ROWS:]
    rows = [
        EventRow(
            moment(e.time_s) if e.time_s is not None else "", e.step, e.kind.replace("_", " "), tone_of(e), e.message
        )
        for e in kept
    ]
    return rows, len(events) - len(rows)


def _mark(step: int, events: Sequence[Event]) -> Mark:
    tone = min((tone_of(event) for event in events), key=WORST_FIRST.index)
    lines = [f"{event.kind.replace('_', ' ')}: {_short(event.message)}" for event in events[:5]]
    more = [f"and {len(events) - 5} more"] if len(events) > 5 else []
    return Mark(step, tone, "\n".join([f"step {step:,}", *lines, *more]))


def _short(message: str) -> str:
    line = message.partition("\n")[0]
    return line if len(line) <= LONGEST_TITLE else f"{line[:LONGEST_TITLE]}…"
