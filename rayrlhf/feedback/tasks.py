"""What to ask a labeller next: answers to one prompt, the least judged first, in an order that tells nothing.

A task is leased: until the lease ends nobody else's tab of the same labeller gets it. One that was not answered comes
back later, in the order of its first time. The order is a seeded shuffle; seed and order are kept with the task.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import combinations
from typing import Any

import sqlalchemy as sa

from rayrlhf.errors import RequestRefusedError
from rayrlhf.feedback.reading import answer_of
from rayrlhf.feedback.records import MAX_ANSWERS, Answer, Author, Turn, digest, task_key_of
from rayrlhf.feedback.schema import answers, comparison_answers, comparisons, task_answers, tasks

_CONSIDERED = MAX_ANSWERS + 3
"""Of one prompt, only so many least judged answers are combined: C(12, 6) = 924 sets at most."""


@dataclass(frozen=True, slots=True)
class TaskSettings:
    """How tasks are drawn."""

    lease_s: float = 900.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class TaskAnswer:
    """What a labeller sees of an answer: not which policy wrote it."""

    response_id: str
    text: str


@dataclass(frozen=True, slots=True)
class LabellingTask:
    """Answers to one conversation, in the order in which to show them."""

    id: str
    conversation: tuple[Turn, ...]
    answers: tuple[TaskAnswer, ...]
    leased_until: datetime


def find_set(connection: sa.Connection, author: Author, count: int, settings: TaskSettings) -> list[Answer] | None:
    """The best answers to show; none if every set of them is judged by the author or leased to them."""
    if not 2 <= count <= MAX_ANSWERS:
        message = f"answers: 2 to {MAX_ANSWERS} are expected, found {count}"
        raise RequestRefusedError(message, status=400, code="invalid_parameter")
    taken = _taken(connection, author)
    for conversation_key in _conversations(connection, count, author, settings):
        chosen = _choose(connection, conversation_key, count, taken)
        if chosen is not None:
            return chosen
    return None


def answers_of(connection: sa.Connection, response_ids: Sequence[str]) -> list[Answer]:
    """2 to 9 answers to the same conversation."""
    query = sa.select(answers).where(answers.c.response_id.in_(response_ids), ~answers.c.erased)
    found = {row.response_id: answer_of(row) for row in connection.execute(query)}
    chosen = [found[response_id] for response_id in response_ids if response_id in found]
    if len(chosen) != len(response_ids) or len({answer.conversation_key for answer in chosen}) != 1:
        message = "answers of this service to the same conversation are expected"
        raise RequestRefusedError(message, status=404, code="unknown_response")
    return chosen


def is_taken(connection: sa.Connection, author: Author, chosen: Sequence[Answer]) -> bool:
    """Whether another tab was faster."""
    return task_key_of(tuple(answer.response_id for answer in chosen)) in _taken(connection, author)


def lease(connection: sa.Connection, author: Author, chosen: Sequence[Answer], settings: TaskSettings) -> LabellingTask:
    """Lease the answers to the author."""
    key = task_key_of(tuple(answer.response_id for answer in chosen))
    until = author.at + timedelta(seconds=settings.lease_s)
    task_id = connection.execute(sa.select(tasks.c.id).filter_by(user_id=author.user, task_key=key)).scalar()
    if task_id is None:
        task_id = _insert(connection, author, chosen, settings.seed)
    connection.execute(sa.update(tasks).where(tasks.c.id == task_id).values(leased_until=until))
    order = sa.select(task_answers.c.response_id).filter_by(task_id=task_id).order_by(task_answers.c.position)
    texts = {answer.response_id: answer.text for answer in chosen}
    shown = tuple(TaskAnswer(shown, texts[shown]) for shown in connection.execute(order).scalars())
    return LabellingTask(task_id, chosen[0].conversation, shown, until)


def _insert(connection: sa.Connection, author: Author, chosen: Sequence[Answer], run_seed: int) -> str:
    """Draw the order and keep it with its seed, which depends on the labeller: two see two orders."""
    task_id = uuid.uuid4().hex
    order = sorted(answer.response_id for answer in chosen)
    key = task_key_of(tuple(order))
    seed = int(digest([run_seed, author.user, key])[:15], 16)
    random.Random(seed).shuffle(order)
    row = {"id": task_id, "user_id": author.user, "task_key": key, "seed": seed}
    connection.execute(sa.insert(tasks).values(**row, created_at=author.at, leased_until=author.at))
    rows = [{"task_id": task_id, "position": n, "response_id": response_id} for n, response_id in enumerate(order)]
    connection.execute(sa.insert(task_answers), rows)
    return task_id


def _taken(connection: sa.Connection, author: Author) -> set[str]:
    """Task keys that the author has judged, or has open somewhere else."""
    judged = sa.select(comparisons.c.task_key).where(comparisons.c.user_id == author.user)
    leased = sa.select(tasks.c.task_key).where(tasks.c.user_id == author.user, tasks.c.leased_until > author.at)
    return set(connection.execute(judged.union(leased)).scalars())


def _judgements() -> sa.Subquery:
    """How many judgements that count each answer has."""
    counted = comparison_answers.join(comparisons)
    query = sa.select(comparison_answers.c.response_id, sa.func.count().label("judgements")).select_from(counted)
    return query.where(comparisons.c.superseded_by.is_(None)).group_by(comparison_answers.c.response_id).subquery()


def _conversations(connection: sa.Connection, count: int, author: Author, settings: TaskSettings) -> list[str]:
    """Prompts with enough different answers, the least judged first; equals in an order of the labeller's own."""
    judged = _judgements()
    per_answer = sa.func.coalesce(judged.c.judgements, 0)
    query = (
        sa.select(answers.c.conversation_key, sa.func.sum(per_answer) * 1.0 / sa.func.count())
        .select_from(answers.outerjoin(judged, answers.c.response_id == judged.c.response_id))
        .where(~answers.c.erased)
        .group_by(answers.c.conversation_key)
        .having(sa.func.count(answers.c.text.distinct()) >= count)
    )
    rows = [(float(mean), digest([settings.seed, author.user, key]), key) for key, mean in connection.execute(query)]
    return [key for _, _, key in sorted(rows)]


def _choose(connection: sa.Connection, conversation_key: str, count: int, taken: set[str]) -> list[Answer] | None:
    """The least judged set of answers with different texts that is not taken."""
    candidates = _least_judged(connection, conversation_key)
    sets = sorted(combinations(candidates, count), key=lambda rows: sum(row.judgements for row in rows))
    for rows in sets:
        if task_key_of(tuple(row.response_id for row in rows)) not in taken:
            return [answer_of(row) for row in rows]
    return None


def _least_judged(connection: sa.Connection, conversation_key: str) -> list[sa.Row[Any]]:
    """One answer of each text, the least judged first."""
    judged = _judgements()
    judgements = sa.func.coalesce(judged.c.judgements, 0).label("judgements")
    query = sa.select(answers, judgements).outerjoin(judged, answers.c.response_id == judged.c.response_id)
    query = query.where(answers.c.conversation_key == conversation_key, ~answers.c.erased)
    first_of: dict[str, sa.Row[Any]] = {}
    for row in connection.execute(query.order_by(answers.c.created_at, answers.c.response_id)):
        first_of.setdefault(row.text, row)
    return sorted(first_of.values(), key=lambda row: int(row.judgements))[:_CONSIDERED]
