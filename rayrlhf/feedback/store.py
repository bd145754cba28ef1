"""The feedback store: every answer that the service gave, and what people said about it.

    open_store(path or URL) ──▶ record_answer · add_feedback · add_comparison · next_task · snapshot · forget

A call that writes returns when what it wrote is on disk. All calls block: an event loop makes them in a thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Self

import sqlalchemy as sa

from rayrlhf.feedback.caps import Caps, posts_of_day
from rayrlhf.feedback.database import Database, open_database
from rayrlhf.feedback.privacy import Forgotten, forget
from rayrlhf.feedback.reading import Snapshot, answer_of, read_snapshot
from rayrlhf.feedback.records import Answer, Author, Comparison, Correction, Flag, Rating, Receipt, Thumb
from rayrlhf.feedback.schema import answers, comparisons, opinions, tasks
from rayrlhf.feedback.tasks import LabellingTask, TaskSettings, answers_of, find_set, is_taken, lease
from rayrlhf.feedback.votes import VoteWriter


@dataclass(frozen=True, slots=True)
class Progress:
    """What one user has done; votes that were changed later are not counted twice."""

    feedback: int
    comparisons: int
    posts_today: int
    posts_per_day: int
    tasks_open: int
    """Tasks that are leased and not yet answered."""


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True)
class FeedbackStore:
    """An open store; threads and processes may share the database."""

    database: Database
    caps: Caps = field(default_factory=Caps)
    tasks: TaskSettings = field(default_factory=TaskSettings)
    clock: Callable[[], datetime] = field(default=_now)

    def record_answer(self, answer: Answer) -> bool:
        """Keep an answer, before it is given to its user; false if it was there already."""
        with self.database.write(answer.user) as connection:
            return insert_answer(connection, answer)

    def answer(self, response_id: str) -> Answer | None:
        """An answer by its id; none if it is unknown or was forgotten."""
        with self.database.read() as connection:
            row = connection.execute(sa.select(answers).filter_by(response_id=response_id, erased=False)).one_or_none()
        return None if row is None else answer_of(row)

    def add_feedback(self, post: Thumb | Rating | Correction | Flag, user: str) -> Receipt:
        """Record a vote about one answer."""
        with self.writer(Author(user, self.clock()), self.caps) as writer:
            return writer.feedback(post)

    def add_comparison(self, post: Comparison, user: str) -> Receipt:
        """Record ranks of several answers to one prompt."""
        with self.writer(Author(user, self.clock()), self.caps) as writer:
            return writer.comparison(post)

    @contextmanager
    def writer(self, author: Author, caps: Caps | None) -> Iterator[VoteWriter]:
        """A transaction in which an author's votes are written; without caps for an import."""
        with self.database.write(author.user) as connection:
            yield VoteWriter(connection, author, caps)

    def next_task(self, user: str, count: int = 2) -> LabellingTask | None:
        """Answers to one prompt that this user has not compared, leased to them; none if there are none left."""
        author = Author(user, self.clock())
        while True:
            with self.database.read() as connection:
                chosen = find_set(connection, author, count, self.tasks)
            if chosen is None:
                return None
            with self.database.write(user) as connection:
                if not is_taken(connection, author, chosen):
                    return lease(connection, author, chosen, self.tasks)

    def lease_answers(self, user: str, response_ids: Sequence[str]) -> LabellingTask:
        """These answers to one conversation as a task of this user; leased again if it was one already."""
        author = Author(user, self.clock())
        with self.database.write(user) as connection:
            chosen = answers_of(connection, response_ids)
            return lease(connection, author, chosen, self.tasks)

    def progress(self, user: str) -> Progress:
        """What a user has done."""
        now = self.clock()
        with self.database.read() as connection:
            return Progress(
                feedback=_count(connection, opinions, user, opinions.c.superseded_by.is_(None)),
                comparisons=_count(connection, comparisons, user, comparisons.c.superseded_by.is_(None)),
                posts_today=posts_of_day(connection, user, now),
                posts_per_day=self.caps.posts_per_day,
                tasks_open=_count(connection, tasks, user, tasks.c.leased_until > now, ~_is_judged(user)),
            )

    def snapshot(self) -> Snapshot:
        """Everything that counts, in memory: for statistics and exports."""
        with self.database.read() as connection:
            return read_snapshot(connection)

    def forget(self, user: str) -> Forgotten:
        """Remove what a user wrote and was told, and cut the votes that stay from the user."""
        with self.database.write(user) as connection:
            forgotten = forget(connection, user)
        self.database.purge()
        return forgotten

    def close(self) -> None:
        """Close all connections."""
        self.database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_store(store: str, *, create: bool = True, caps: Caps | None = None) -> FeedbackStore:
    """Open the store at a path (SQLite) or URL (`postgresql+psycopg://…`), and bring its schema up to date."""
    return FeedbackStore(open_database(store, create=create), caps or Caps())


def insert_answer(connection: sa.Connection, answer: Answer) -> bool:
    """Add an answer in a transaction of the caller; false if its id is there already."""
    if connection.execute(sa.select(answers.c.response_id).filter_by(response_id=answer.response_id)).first():
        return False
    row = {
        "response_id": answer.response_id,
        "conversation_key": answer.conversation_key,
        "conversation": [turn.model_dump() for turn in answer.conversation],
        "text": answer.text,
        "policy_version": answer.policy_version,
        "model": answer.model,
        "sampling": answer.sampling,
        "user_id": answer.user,
        "created_at": answer.at,
        "erased": False,
    }
    connection.execute(sa.insert(answers).values(**row))
    return True


def _is_judged(user: str) -> sa.ColumnElement[bool]:
    judged = sa.select(comparisons.c.task_key).where(comparisons.c.user_id == user)
    return tasks.c.task_key.in_(judged)


def _count(connection: sa.Connection, table: sa.Table, user: str, *where: sa.ColumnElement[bool]) -> int:
    query = sa.select(sa.func.count()).select_from(table).where(table.c.user_id == user, *where)
    return int(connection.execute(query).scalar_one())
