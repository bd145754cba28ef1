"""Writing what people say, inside a transaction: each post once, one vote of a person counts, changed ones are kept.

    same (user, idempotency key)              the first record's id; other content under a used key is refused
    same (user, answer, kind) or (user, set of answers)
        and the same value                    the first record's id
        and another value                     a new record that counts; the old one is kept, marked as superseded

An import never overrules what is newer than the imported record: that goes into the history.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from rayrlhf.errors import RequestRefusedError
from rayrlhf.feedback.caps import Caps, refuse_beyond_answer, refuse_beyond_day
from rayrlhf.feedback.records import Author, Comparison, Correction, Flag, Post, Rating, Receipt, Thumb
from rayrlhf.feedback.schema import answers, comparison_answers, comparisons, opinions, posts, task_answers, tasks


@dataclass(frozen=True, slots=True)
class VoteWriter:
    """Writes for one author; without caps it is an import."""

    connection: sa.Connection
    author: Author
    caps: Caps | None

    def feedback(self, post: Thumb | Rating | Correction | Flag) -> Receipt:
        """Record a vote about one answer."""
        return self._once(post, lambda: self._opinion(post))

    def comparison(self, post: Comparison) -> Receipt:
        """Record ranks of several answers to one prompt."""
        return self._once(post, lambda: self._comparison(post))

    def _once(self, post: Post, write: Callable[[], Receipt]) -> Receipt:
        key = {"user_id": self.author.user, "idempotency_key": post.idempotency_key}
        earlier = self.connection.execute(sa.select(posts).filter_by(**key)).one_or_none()
        if earlier is not None:
            if earlier.content_digest != post.content_digest:
                raise RequestRefusedError(
                    "idempotency_key: it was used for another post; a new one is expected for a new post",
                    status=409,
                    code="idempotency_key_reused",
                )
            return Receipt(earlier.record_id, is_new=False)
        if self.caps is not None:
            refuse_beyond_day(self.connection, self.author, self.caps)
        receipt = write()
        row = {"content_digest": post.content_digest, "record_id": receipt.id, "created_at": self.author.at}
        self.connection.execute(sa.insert(posts).values(**key, **row))
        return receipt

    def _opinion(self, post: Thumb | Rating | Correction | Flag) -> Receipt:
        self._conversation_of([post.response_id])
        values = _values(post)
        place = {"user_id": self.author.user, "response_id": post.response_id, "kind": post.kind}
        current = self._current(opinions, place)
        if current is not None and all(getattr(current, name) == value for name, value in values.items()):
            return Receipt(current.id, is_new=False)
        self._refuse_beyond_answer([post.response_id])
        return Receipt(self._insert(opinions, place | values, current), is_new=True)

    def _comparison(self, post: Comparison) -> Receipt:
        if len(set(self._conversation_of(post.response_ids))) > 1:
            raise RequestRefusedError(
                "response_ids: answers to the same conversation are expected", status=400, code="different_prompts"
            )
        self._check_task(post)
        place = {"user_id": self.author.user, "task_key": post.task_key}
        current = self._current(comparisons, place)
        if current is not None and self._says_the_same(current, post):
            return Receipt(current.id, is_new=False)
        self._refuse_beyond_answer(post.response_ids)
        new = self._insert(comparisons, {**place, "task_id": post.task_id, "both_bad": post.both_bad}, current)
        shown = zip(post.response_ids, post.ranks, strict=True)
        rows = [
            {"comparison_id": new, "position": position, "response_id": response_id, "rank": rank}
            for position, (response_id, rank) in enumerate(shown)
        ]
        self.connection.execute(sa.insert(comparison_answers), rows)
        return Receipt(new, is_new=True)

    def _current(self, table: sa.Table, place: dict[str, Any]) -> sa.Row[Any] | None:
        """The one that counts at this place."""
        query = sa.select(table).filter_by(**place, superseded_by=None)
        return self.connection.execute(query).one_or_none()

    def _insert(self, table: sa.Table, values: dict[str, Any], current: sa.Row[Any] | None) -> str:
        """A row that counts from now on; an imported one that is older than the current one only joins the history."""
        new = uuid.uuid4().hex
        is_late = current is not None and self.caps is None and current.created_at > self.author.at
        if current is not None and not is_late:
            self.connection.execute(sa.update(table).where(table.c.id == current.id).values(superseded_by=new))
        superseded_by = current.id if current is not None and is_late else None
        row = {**values, "id": new, "created_at": self.author.at, "superseded_by": superseded_by}
        self.connection.execute(sa.insert(table).values(**row))
        return new

    def _says_the_same(self, current: sa.Row[Any], post: Comparison) -> bool:
        rows = self.connection.execute(sa.select(comparison_answers).filter_by(comparison_id=current.id))
        ranks = {row.response_id: row.rank for row in rows}
        return current.both_bad == post.both_bad and ranks == dict(zip(post.response_ids, post.ranks, strict=True))

    def _refuse_beyond_answer(self, response_ids: Sequence[str]) -> None:
        if self.caps is not None:
            refuse_beyond_answer(self.connection, self.author, response_ids, self.caps)

    def _conversation_of(self, response_ids: Sequence[str]) -> list[str]:
        """The conversations' keys; all answers must be here."""
        columns = sa.select(answers.c.response_id, answers.c.conversation_key)
        query = columns.where(answers.c.response_id.in_(response_ids), ~answers.c.erased)
        found = {row.response_id: row.conversation_key for row in self.connection.execute(query)}
        if len(found) < len(response_ids):
            raise RequestRefusedError("no such answer is stored", status=404, code="unknown_response")
        return list(found.values())

    def _check_task(self, post: Comparison) -> None:
        """A task is answered by whom it was given to, with its answers in the order in which they were shown."""
        if post.task_id is None:
            return
        mine = sa.select(task_answers.c.response_id).select_from(task_answers.join(tasks))
        mine = mine.where(tasks.c.id == post.task_id, tasks.c.user_id == self.author.user)
        shown = self.connection.execute(mine.order_by(task_answers.c.position)).scalars().all()
        if not shown:
            raise RequestRefusedError("task_id: this user has no such task", status=404, code="unknown_task")
        if tuple(shown) != post.response_ids:
            message = "response_ids: the task's answers are expected, in the order in which they were shown"
            raise RequestRefusedError(message, status=409, code="task_mismatch")


def _values(post: Thumb | Rating | Correction | Flag) -> dict[str, Any]:
    match post:
        case Thumb():
            return {"value": 1 if post.value == "up" else -1, "reason": None, "text": None}
        case Rating():
            return {"value": post.value, "reason": None, "text": None}
        case Correction():
            return {"value": None, "reason": None, "text": post.text}
        case Flag():
            return {"value": None, "reason": post.reason, "text": post.note}
