"""How far a run is, how it ended, and its most telling numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from rayrlhf.data.durable import entries
from rayrlhf.report.catalogue import NATS
from rayrlhf.report.history import Event, History, last_written
from rayrlhf.report.numbers import PLAIN, SHARE, Unit, duration, moment, number

Word = Literal["finished", "failed", "interrupted", "unfinished"]
ENDINGS: Mapping[str, Word] = {"finished": "finished", "failed": "failed", "interrupted": "interrupted"}


@dataclass(frozen=True, slots=True)
class Status:
    """`total` is None where nothing says how many steps there will be."""

    word: Word
    done: int
    total: int | None
    when: str
    cause: str


@dataclass(frozen=True, slots=True)
class KeyNumber:
    """A number with its name and unit, and what to compare it with."""

    name: str
    value: str
    unit: str = ""
    beside: str = ""


NEWEST: Sequence[tuple[str, str, Unit]] = (
    ("reward/mean", "Reward", PLAIN),
    ("kl/sequence_nats", "KL", NATS),
    ("sft/loss_nats", "Loss", NATS),
    ("reward_model/loss_nats", "Loss", NATS),
    ("rollout/response_tokens_mean", "Response length", Unit("tokens")),
    ("rollout/truncated_share", "Answers cut", SHARE),
    ("policy/entropy_nats", "Entropy", NATS),
    ("training/gradient_norm", "Gradient norm", PLAIN),
    ("rollout/tokens_per_s", "Generation", Unit("tok/s")),
    ("training/tokens_per_s", "Training", Unit("tok/s")),
)
"""Metrics whose first and newest values head the page."""


def status_of(history: History) -> Status:
    """What the run's own last words are, or what its files say where it left none."""
    lives = [event for event in history.events if event.kind == "started" or event.kind in ENDINGS]
    done, total = (history.steps[-1] if history.steps else 0), _total(history, lives)
    last = lives[-1] if lives else None
    if last is not None and last.kind in ENDINGS:
        cause = "" if last.kind == "finished" else last.message
        return Status(ENDINGS[last.kind], done, total, moment(last.time_s or -1e18), cause)
    directory = history.directory
    complete = bool(history.result) or (total is not None and done >= total and bool(entries(directory.model)))
    word: Word = "finished" if complete and last is None else "unfinished"
    times = [time for path in (directory.metrics, directory.events, directory.config) if (time := last_written(path))]
    return Status(word, done, total, moment(max(times)) if times else "", "")


def _total(history: History, lives: Sequence[Event]) -> int | None:
    said = [event.fields.get("steps") for event in lives if event.kind == "started"]
    found = [steps for steps in [history.setting("run", "steps"), *said] if isinstance(steps, int) and steps > 0]
    return found[-1] if found else None


def title_of(history: History) -> tuple[str, str]:
    """The run's name and what kind of run it is."""
    name = history.setting("name")
    algorithm = history.setting("algorithm", "kind")
    if isinstance(algorithm, str):
        kind = f"reinforcement learning, {algorithm.upper()}"
    elif history.setting("data", "comparisons") is not None:
        kind = "reward model"
    elif history.setting("data", "demonstrations") is not None:
        kind = "supervised fine-tuning"
    else:
        kind = "run"
    return name if isinstance(name, str) else history.directory.root.name, kind


def key_numbers(history: History) -> list[KeyNumber]:
    """Newest values with their first ones, and how long the steps took."""
    found = [*_newest(history)]
    times = [column for name, column in history.columns.items() if name.startswith("time/")]
    if times:
        total = sum(sum(column.values()) for column in times)
        each = " ".join(duration(total / len(history.steps)))
        found.append(KeyNumber("Time in steps", *duration(total), f"{each} a step"))
    return found


def _newest(history: History) -> Iterator[KeyNumber]:
    for metric, name, unit in NEWEST:
        if column := history.columns.get(metric):
            first, last = min(column), max(column)
            before, newest = (number(column[step] * unit.scale, 3) for step in (first, last))
            yield KeyNumber(name, newest, unit.name, f"{before} at step {first:,}" if last > first else "")


def final_numbers(result: Mapping[str, float]) -> list[KeyNumber]:
    """What a supervised stage measured at its end; a value with its bounds is one row."""
    found = []
    for name, value in result.items():
        low, high = result.get(f"{name}_low"), result.get(f"{name}_high")
        bound = name.endswith(("_low", "_high")) and name.rpartition("_")[0] in result
        if not bound:
            unit = _unit(name)
            around = f"{unit.text(low)} to {unit.text(high)}" if low is not None and high is not None else ""
            found.append(KeyNumber(name, number(value * unit.scale), unit.name, around))
    return found


def _unit(name: str) -> Unit:
    """By the words of a metric's name."""
    if "accuracy" in name or name.endswith(("_share", "_fraction", "_wins")):
        return SHARE
    return NATS if name.endswith("_nats") else PLAIN
