"""How much one person can add: so that no single account shapes what a policy is trained on, or fills the disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa

from rayrlhf.errors import RequestRefusedError
from rayrlhf.feedback.records import Author
from rayrlhf.feedback.schema import comparison_answers, comparisons, opinions, posts


@dataclass(frozen=True, slots=True)
class Caps:
    """Limits of one user. They hold over all replicas, because they are counted in the database."""

    posts_per_day: int = 2_000
    """Accepted posts, repeats under another idempotency key included, in a day of UTC."""
    records_per_answer: int = 20
    """Votes and comparisons that involve one answer, those that were changed later included."""


def refuse_beyond_day(connection: sa.Connection, author: Author, caps: Caps) -> None:
    """Raise if the user has posted as much as a day allows."""
    if posts_of_day(connection, author.user, author.at) < caps.posts_per_day:
        return
    left_s = (_day(author.at) + timedelta(days=1) - author.at).total_seconds()
    raise RequestRefusedError(
        f"{caps.posts_per_day} posts a day are taken from one user; the next day begins at 00:00 UTC",
        status=429,
        code="daily_cap_reached",
        retry_after_s=int(left_s) + 1,
    )


def refuse_beyond_answer(connection: sa.Connection, author: Author, answers: Sequence[str], caps: Caps) -> None:
    """Raise if the user has said as much about one of the answers as is taken."""
    for response_id in answers:
        if _records_about(connection, author.user, response_id) >= caps.records_per_answer:
            raise RequestRefusedError(
                f"{caps.records_per_answer} records about one answer are taken from one user",
                status=429,
                code="answer_cap_reached",
            )


def posts_of_day(connection: sa.Connection, user: str, now: datetime) -> int:
    """Accepted posts of a user since 00:00 UTC."""
    mine = posts.c.user_id == user, posts.c.created_at >= _day(now)
    return int(connection.execute(sa.select(sa.func.count()).select_from(posts).where(*mine)).scalar_one())


def _records_about(connection: sa.Connection, user: str, response_id: str) -> int:
    votes = sa.select(sa.func.count()).where(opinions.c.user_id == user, opinions.c.response_id == response_id)
    compared = (
        sa.select(sa.func.count())
        .select_from(comparisons.join(comparison_answers))
        .where(comparisons.c.user_id == user, comparison_answers.c.response_id == response_id)
    )
    return int(connection.execute(votes).scalar_one()) + int(connection.execute(compared).scalar_one())


def _day(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
