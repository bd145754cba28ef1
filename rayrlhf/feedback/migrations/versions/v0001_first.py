"""The first schema."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

COUNTS = sa.text("superseded_by IS NULL")
TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Make all tables."""
    _answers()
    _votes()
    _comparisons()
    _tasks()


def _answers() -> None:
    op.create_table(
        "feedback_answers",
        sa.Column("response_id", sa.String(200), primary_key=True),
        sa.Column("conversation_key", sa.String(64), nullable=False),
        sa.Column("conversation", sa.JSON(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("policy_version", sa.BigInteger(), nullable=False),
        sa.Column("model", sa.String(200), nullable=False),
        sa.Column("sampling", sa.JSON(), nullable=False),
        sa.Column("user_id", sa.String(200), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("erased", sa.Boolean(), nullable=False),
    )
    _index("feedback_answers", "conversation_key")
    _index("feedback_answers", "user_id")


def _votes() -> None:
    op.create_table(
        "feedback_posts",
        sa.Column("user_id", sa.String(200), primary_key=True),
        sa.Column("idempotency_key", sa.String(200), primary_key=True),
        sa.Column("content_digest", sa.String(64), nullable=False),
        sa.Column("record_id", sa.String(32), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
    )
    op.create_index("feedback_posts_of_a_day", "feedback_posts", ["user_id", "created_at"])
    op.create_table(
        "feedback_opinions",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("user_id", sa.String(200), nullable=False),
        sa.Column("response_id", sa.String(200), sa.ForeignKey("feedback_answers.response_id"), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("value", sa.Integer()),
        sa.Column("reason", sa.String(16)),
        sa.Column("text", sa.Text()),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("superseded_by", sa.String(32)),
    )
    _index("feedback_opinions", "response_id")
    _one_counts("feedback_opinions", ["user_id", "response_id", "kind"])


def _comparisons() -> None:
    op.create_table(
        "feedback_comparisons",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("user_id", sa.String(200), nullable=False),
        sa.Column("task_key", sa.String(64), nullable=False),
        sa.Column("task_id", sa.String(32)),
        sa.Column("both_bad", sa.Boolean(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("superseded_by", sa.String(32)),
    )
    _one_counts("feedback_comparisons", ["user_id", "task_key"])
    op.create_table(
        "feedback_comparison_answers",
        sa.Column(
            "comparison_id",
            sa.String(32),
            _owned_by("feedback_comparisons.id"),
            primary_key=True,
        ),
        sa.Column("position", sa.Integer(), primary_key=True),
        sa.Column("response_id", sa.String(200), sa.ForeignKey("feedback_answers.response_id"), nullable=False),
        sa.Column("rank", sa.Integer(), nullable=False),
    )
    _index("feedback_comparison_answers", "response_id")


def _tasks() -> None:
    op.create_table(
        "feedback_tasks",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("user_id", sa.String(200), nullable=False),
        sa.Column("task_key", sa.String(64), nullable=False),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("leased_until", TIME, nullable=False),
    )
    op.create_index("feedback_tasks_once", "feedback_tasks", ["user_id", "task_key"], unique=True)
    op.create_table(
        "feedback_task_answers",
        sa.Column("task_id", sa.String(32), _owned_by("feedback_tasks.id"), primary_key=True),
        sa.Column("position", sa.Integer(), primary_key=True),
        sa.Column("response_id", sa.String(200), sa.ForeignKey("feedback_answers.response_id"), nullable=False),
    )
    _index("feedback_task_answers", "response_id")


def _owned_by(column: str) -> sa.ForeignKey:
    return sa.ForeignKey(column, ondelete="CASCADE")


def _index(table: str, column: str) -> None:
    op.create_index(f"ix_{table}_{column}", table, [column])


def _one_counts(table: str, columns: list[str]) -> None:
    name = f"{table}_one_counts"
    op.create_index(name, table, columns, unique=True, sqlite_where=COUNTS, postgresql_where=COUNTS)
