"""The tables, the same in SQLite and PostgreSQL. A change here needs a migration beside it and a new version.

answers ◀─ opinions                     one row a vote; `superseded_by` is empty in the one that counts
   ▲ ◀──── comparison_answers ─▶ comparisons
   ▲ ◀──── task_answers ───────▶ tasks  what a labeller was shown, in which order, and until when it is theirs
posts                                   one row an accepted post: (user, idempotency key) ─▶ the record's id
"""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
)

SCHEMA_VERSION = "0001"
VERSION_TABLE = "feedback_schema_version"


class UtcTime(TypeDecorator[datetime]):
    """A moment. SQLite has no time zones: what comes back without one was written as UTC."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """To UTC."""
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """From UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


metadata = MetaData()

answers = Table(
    "feedback_answers",
    metadata,
    Column("response_id", String(200), primary_key=True),
    Column("conversation_key", String(64), nullable=False, index=True),
    Column("conversation", JSON, nullable=False),
    Column("text", Text, nullable=False),
    Column("policy_version", BigInteger, nullable=False),
    Column("model", String(200), nullable=False),
    Column("sampling", JSON, nullable=False),
    Column("user_id", String(200), nullable=False, index=True),
    Column("created_at", UtcTime, nullable=False),
    Column("erased", Boolean, nullable=False),
)

posts = Table(
    "feedback_posts",
    metadata,
    Column("user_id", String(200), primary_key=True),
    Column("idempotency_key", String(200), primary_key=True),
    Column("content_digest", String(64), nullable=False),
    Column("record_id", String(32), nullable=False),
    Column("created_at", UtcTime, nullable=False),
    Index("feedback_posts_of_a_day", "user_id", "created_at"),
)

opinions = Table(
    "feedback_opinions",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("user_id", String(200), nullable=False),
    Column("response_id", ForeignKey("feedback_answers.response_id"), nullable=False, index=True),
    Column("kind", String(16), nullable=False),
    Column("value", Integer),
    Column("reason", String(16)),
    Column("text", Text),
    Column("created_at", UtcTime, nullable=False),
    Column("superseded_by", String(32)),
)
Index(
    "feedback_opinions_one_counts",
    opinions.c.user_id,
    opinions.c.response_id,
    opinions.c.kind,
    unique=True,
    sqlite_where=opinions.c.superseded_by.is_(None),
    postgresql_where=opinions.c.superseded_by.is_(None),
)

comparisons = Table(
    "feedback_comparisons",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("user_id", String(200), nullable=False),
    Column("task_key", String(64), nullable=False),
    Column("task_id", String(32)),
    Column("both_bad", Boolean, nullable=False),
    Column("created_at", UtcTime, nullable=False),
    Column("superseded_by", String(32)),
)
Index(
    "feedback_comparisons_one_counts",
    comparisons.c.user_id,
    comparisons.c.task_key,
    unique=True,
    sqlite_where=comparisons.c.superseded_by.is_(None),
    postgresql_where=comparisons.c.superseded_by.is_(None),
)

comparison_answers = Table(
    "feedback_comparison_answers",
    metadata,
    Column("comparison_id", ForeignKey("feedback_comparisons.id", ondelete="CASCADE"), primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("response_id", ForeignKey("feedback_answers.response_id"), nullable=False, index=True),
    Column("rank", Integer, nullable=False),
)

tasks = Table(
    "feedback_tasks",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("user_id", String(200), nullable=False),
    Column("task_key", String(64), nullable=False),
    Column("seed", BigInteger, nullable=False),
    Column("created_at", UtcTime, nullable=False),
    Column("leased_until", UtcTime, nullable=False),
    Index("feedback_tasks_once", "user_id", "task_key", unique=True),
)

task_answers = Table(
    "feedback_task_answers",
    metadata,
    Column("task_id", ForeignKey("feedback_tasks.id", ondelete="CASCADE"), primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("response_id", ForeignKey("feedback_answers.response_id"), nullable=False, index=True),
)
