"""Run by alembic: migrate on the connection, and inside the transaction, that `database.py` holds."""

from __future__ import annotations

from alembic import context

from rayrlhf.feedback.schema import VERSION_TABLE

context.configure(connection=context.config.attributes["connection"], version_table=VERSION_TABLE)
with context.begin_transaction():
    context.run_migrations()
