"""Answers to look at, and how rewards are spread: the first, a middle and the last committed step of the journal.

Only those steps are read, one at a time and without token ids; of each, three answers and the rewards are kept.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rayrlhf.data.journal import Journal
from rayrlhf.report.history import Damage
from rayrlhf.report.numbers import number
from rayrlhf.stages.run_directory import RunDirectory

COLUMNS = (
    "trajectory_id", "prompt_id", "policy_versions", "finish_reason", "reward", "reward_components", "reward_status",
    "messages", "response", "answer",
)  # fmt: skip
LONGEST_TEXT = 6000
MOST_MESSAGES = 8
MOST_COMPONENTS = 12


@dataclass(frozen=True, slots=True)
class Turn:
    """A message of the conversation, cut where it is too long."""

    role: str
    text: str


@dataclass(frozen=True, slots=True)
class Answer:
    """One trajectory for people; `place` says what it is an example of."""

    place: str
    trajectory_id: str
    prompt_id: str
    turns: Sequence[Turn]
    earlier_turns: int
    response: str
    reference: str | None
    reward: str
    components: Sequence[tuple[str, str]]
    end: str
    versions: str


@dataclass(frozen=True, slots=True)
class StepSamples:
    """What is kept of one committed step: finite rewards, and how many answers have none."""

    step: int
    answers: Sequence[Answer]
    rewards: Sequence[float]
    unscored: int


def read_samples(directory: RunDirectory, damage: Damage) -> list[StepSamples]:
    """The steps that are shown, in order; a damaged one is noted and left out."""
    journal = Journal(directory.trajectories)
    steps: list[int] = []
    with damage.noted(directory.trajectories):
        steps = journal.committed_steps()
    found = []
    for step in _shown(steps):
        with damage.noted(directory.trajectories / f"step-{step:06d}.parquet"):
            if rows := journal.rows(step, COLUMNS):
                found.append(_of_step(step, rows))
    return found


def _of_step(step: int, rows: Sequence[Mapping[str, Any]]) -> StepSamples:
    try:
        return _samples(step, rows)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"a row is not what a run writes ({type(error).__name__}: {error})") from None


def _shown(steps: Sequence[int]) -> list[int]:
    """First, middle and last, each once."""
    return sorted({steps[0], steps[len(steps) // 2], steps[-1]}) if steps else []


def _samples(step: int, rows: Sequence[Mapping[str, Any]]) -> StepSamples:
    scored = sorted((row for row in rows if _is_scored(row)), key=lambda row: float(row["reward"]), reverse=True)
    chosen = {"best": scored[0], "median": scored[len(scored) // 2], "worst": scored[-1]} if scored else {}
    unscored = [row for row in rows if not _is_scored(row)]
    if unscored:
        chosen["without a reward"] = unscored[0]
    unique: dict[str, tuple[str, Mapping[str, Any]]] = {}
    for place, row in chosen.items():
        unique.setdefault(row["trajectory_id"], (place, row))
    answers = [_answer(place, row) for place, row in unique.values()]
    return StepSamples(step, answers, [float(row["reward"]) for row in scored], len(unscored))


def _is_scored(row: Mapping[str, Any]) -> bool:
    return row["reward"] is not None and math.isfinite(row["reward"])


def _answer(place: str, row: Mapping[str, Any]) -> Answer:
    messages = json.loads(row["messages"])
    turns = [Turn(str(message["role"]), cut(str(message["content"]))) for message in messages[-MOST_MESSAGES:]]
    components = list(json.loads(row["reward_components"]).items())[:MOST_COMPONENTS]
    status = row["reward_status"]
    return Answer(
        place,
        row["trajectory_id"],
        row["prompt_id"],
        turns,
        len(messages) - len(turns),
        cut(row["response"]),
        None if row["answer"] is None else cut(row["answer"]),
        _text(row["reward"]) if status == "ok" else f"{_text(row['reward'])} ({status})",
        [(name, _text(value)) for name, value in components],
        {"stop": "ended by the policy", "length": "cut at max_tokens"}.get(row["finish_reason"], row["finish_reason"]),
        ", ".join(map(str, row["policy_versions"])),
    )


def _text(value: Any) -> str:
    """A number for people, and whatever else is there as it is."""
    if isinstance(value, int | float) and math.isfinite(value):
        return number(value)
    return "none" if value is None else str(value)


def cut(text: str) -> str:
    """Long texts end with how much is missing."""
    left = len(text) - LONGEST_TEXT
    return text if left <= 0 else f"{text[:LONGEST_TEXT]} … ({left:,} characters more)"
