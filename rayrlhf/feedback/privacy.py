"""Forgetting a person: what they wrote and what they were told goes; votes stay, cut from the person.

| | |
|---|---|
| answers given to them | conversation, text and sampling settings erased; the row stays, for others' votes about it |
| corrections and notes | erased |
| thumbs, ratings, reasons of flags, ranks | stay under a random name that nothing leads back to |
| votes that were changed later | removed |
| idempotency keys (a client may write anything into them), tasks | removed |

What was exported before is out of reach: remove those files, and models trained on them are another matter.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass

import sqlalchemy as sa

from rayrlhf.feedback.schema import answers, comparisons, opinions, posts, tasks


@dataclass(frozen=True, slots=True)
class Forgotten:
    """How many rows were removed, erased or renamed."""

    answers: int
    opinions: int
    comparisons: int
    tasks: int


def forget(connection: sa.Connection, user: str) -> Forgotten:
    """Remove or pseudonymise everything of a user, in the caller's transaction."""
    pseudonym = f"forgotten-{uuid.uuid4().hex}"
    for table in (opinions, comparisons):
        connection.execute(sa.delete(table).where(table.c.user_id == user, table.c.superseded_by.is_not(None)))
    connection.execute(sa.delete(posts).where(posts.c.user_id == user))
    corrections = sa.delete(opinions).where(opinions.c.user_id == user, opinions.c.kind == "correction")
    removed = connection.execute(corrections).rowcount
    erased_notes = sa.case((opinions.c.kind == "flag", sa.literal("")), else_=None)
    renamed = sa.update(opinions).where(opinions.c.user_id == user).values(user_id=pseudonym, text=erased_notes)
    return Forgotten(
        opinions=removed + connection.execute(renamed).rowcount,
        answers=_erase_answers(connection, user, pseudonym),
        comparisons=_rename_comparisons(connection, user, pseudonym),
        tasks=connection.execute(sa.delete(tasks).where(tasks.c.user_id == user)).rowcount,
    )


def _erase_answers(connection: sa.Connection, user: str, pseudonym: str) -> int:
    """Answers, and what others wrote about them: a correction of an answer tells what it was about."""
    theirs = sa.select(answers.c.response_id).where(answers.c.user_id == user)
    about = opinions.c.response_id.in_(theirs)
    connection.execute(sa.delete(opinions).where(about, opinions.c.kind == "correction"))
    connection.execute(sa.update(opinions).where(about, opinions.c.kind == "flag").values(text=""))
    # One key for all: were they kept, equal questions of two people could still be told to be equal.
    blank = {"conversation": [], "text": "", "sampling": {}, "conversation_key": pseudonym, "user_id": pseudonym}
    erased = sa.update(answers).where(answers.c.user_id == user).values(**blank, erased=True)
    return connection.execute(erased).rowcount


def _rename_comparisons(connection: sa.Connection, user: str, pseudonym: str) -> int:
    mine = sa.update(comparisons).where(comparisons.c.user_id == user)
    return connection.execute(mine.values(user_id=pseudonym, task_id=None)).rowcount
