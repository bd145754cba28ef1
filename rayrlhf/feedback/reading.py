"""What counts in a store, read in one transaction: the newest vote of each person, with the answers it is about."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from rayrlhf.feedback.records import Answer, Turn
from rayrlhf.feedback.schema import answers, comparison_answers, comparisons, opinions


@dataclass(frozen=True, slots=True)
class StoredOpinion:
    """A vote about one answer."""

    id: str
    user: str
    response_id: str
    kind: str
    value: int | None
    """Thumb: 1 or -1; rating: 1 to 5."""
    reason: str | None
    text: str | None
    at: datetime


@dataclass(frozen=True, slots=True)
class StoredComparison:
    """Answers in the order in which they were shown, and their ranks."""

    id: str
    user: str
    response_ids: tuple[str, ...]
    ranks: tuple[int, ...]
    both_bad: bool
    at: datetime

    @property
    def pairs(self) -> dict[tuple[str, str], int]:
        """1 (the first is better), 0 (a tie) or -1 of each pair of answers, which are ordered by their ids."""
        ranked = sorted(zip(self.response_ids, self.ranks, strict=True))
        return {
            (one, other): (rank < other_rank) - (rank > other_rank)
            for i, (one, rank) in enumerate(ranked)
            for other, other_rank in ranked[i + 1 :]
        }


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that counts at one moment, each list ordered by time and id."""

    answers: Mapping[str, Answer]
    """By response id. What was forgotten has an empty text and is in `erased`."""
    erased: frozenset[str]
    opinions: tuple[StoredOpinion, ...]
    comparisons: tuple[StoredComparison, ...]


def read_snapshot(connection: sa.Connection) -> Snapshot:
    """Read what counts."""
    rows = connection.execute(sa.select(answers)).all()
    return Snapshot(
        answers={row.response_id: answer_of(row) for row in rows},
        erased=frozenset(row.response_id for row in rows if row.erased),
        opinions=_opinions(connection),
        comparisons=_comparisons(connection),
    )


def answer_of(row: sa.Row[Any]) -> Answer:
    """An answer from its row, which was checked when it was written."""
    return Answer.model_construct(
        response_id=row.response_id,
        conversation=tuple(Turn.model_construct(**turn) for turn in row.conversation),
        text=row.text,
        policy_version=row.policy_version,
        model=row.model,
        sampling=row.sampling,
        user=row.user_id,
        at=row.created_at,
    )


def _opinions(connection: sa.Connection) -> tuple[StoredOpinion, ...]:
    query = sa.select(opinions).where(opinions.c.superseded_by.is_(None))
    rows = connection.execute(query.order_by(opinions.c.created_at, opinions.c.id))
    return tuple(
        StoredOpinion(row.id, row.user_id, row.response_id, row.kind, row.value, row.reason, row.text, row.created_at)
        for row in rows
    )


def _comparisons(connection: sa.Connection) -> tuple[StoredComparison, ...]:
    shown: dict[str, list[tuple[str, int]]] = defaultdict(list)
    order = comparison_answers.c.comparison_id, comparison_answers.c.position
    for row in connection.execute(sa.select(comparison_answers).order_by(*order)):
        shown[row.comparison_id].append((row.response_id, row.rank))
    query = sa.select(comparisons).where(comparisons.c.superseded_by.is_(None))
    return tuple(
        StoredComparison(
            id=row.id,
            user=row.user_id,
            response_ids=tuple(response_id for response_id, _ in shown[row.id]),
            ranks=tuple(rank for _, rank in shown[row.id]),
            both_bad=row.both_bad,
            at=row.created_at,
        )
        for row in connection.execute(query.order_by(comparisons.c.created_at, comparisons.c.id))
    )
