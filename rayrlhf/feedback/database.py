"""Opening the database: SQLite with no set-up, PostgreSQL by URL; migrated under a lock, durable when a write returns.

SQLite: WAL with synchronous=FULL, so a committed transaction is on disk; one writer at a time (BEGIN IMMEDIATE) and
readers beside it. It needs a local disk. PostgreSQL: synchronous_commit, whatever the server's default is.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, DatabaseError, NoSuchModuleError

from rayrlhf.access.private_files import alone
from rayrlhf.data.durable import make_folder
from rayrlhf.errors import FeedbackStoreError
from rayrlhf.feedback.schema import SCHEMA_VERSION, VERSION_TABLE

BUSY_TIMEOUT_S = 30
_MIGRATION_LOCK = "rayrlhf feedback migration"


@dataclass(frozen=True)
class Database:
    """Transactions on an opened, migrated database."""

    engine: sa.Engine
    _one_writer: AbstractContextManager[Any] = field(default_factory=nullcontext)

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A consistent view; nothing is written."""
        isolation = "REPEATABLE READ" if self.is_postgres else None
        with self.engine.connect() as connection:
            if isolation is not None:
                connection = connection.execution_options(isolation_level=isolation)
            with connection.begin():
                yield connection

    @contextmanager
    def write(self, user: str) -> Iterator[sa.Connection]:
        """A transaction that is durable when the context ends. Those of one user come one after another.

        SQLite writers of this process queue at a lock, which is fair; SQLite's own busy handler polls and is not.
        """
        with self._one_writer, _begin(self.engine, f"user {user}") as connection:
            yield connection

    def purge(self) -> None:
        """After a deletion: leave no copy of what was deleted in SQLite's write-ahead log."""
        if not self.is_postgres:
            with self.engine.connect() as connection:
                connection.exec_driver_sql("COMMIT")
                connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
                connection.exec_driver_sql("BEGIN")

    @property
    def is_postgres(self) -> bool:
        """Else it is SQLite."""
        return self.engine.dialect.name == "postgresql"

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()


def open_database(store: str, *, create: bool = True) -> Database:
    """Open a path or URL and bring its schema up to date; several processes may do so at once."""
    url = _url(store)
    try:
        return _open_sqlite(url, create) if url.get_backend_name() == "sqlite" else _open_postgres(url)
    except DatabaseError as error:
        shown = url.render_as_string(hide_password=True)
        raise FeedbackStoreError(f"{shown}: cannot be opened as a feedback store: {error.orig}".rstrip()) from None


def folder_of(store: str) -> Path:
    """Where the store's keys and tokens are by default: beside an SQLite file, else in `runs/feedback`."""
    url = _url(store)
    if url.get_backend_name() == "sqlite":
        return Path(url.database or "").absolute().parent
    return Path("runs/feedback").absolute()


def _url(store: str) -> sa.URL:
    if "://" not in store:
        return sa.URL.create("sqlite", database=str(Path(store).absolute()))
    try:
        url = sa.make_url(store)
    except ArgumentError:
        raise FeedbackStoreError("the store's URL cannot be read: postgresql+psycopg://user@host/name?") from None
    if url.drivername not in ("sqlite", "postgresql+psycopg") or not url.database or url.database == ":memory:":
        shown = url.render_as_string(hide_password=True)
        raise FeedbackStoreError(f"{shown}: a path, or postgresql+psycopg://user@host/name, is expected")
    return url


def _open_sqlite(url: sa.URL, create: bool) -> Database:
    path = Path(url.database or "")
    if path.is_dir() or not (create or path.exists()):
        raise FeedbackStoreError(f"{path}: no such feedback store")
    try:
        make_folder(path.parent)
    except OSError as error:
        raise FeedbackStoreError(f"{path}: the folder cannot be made: {error.strerror}") from None
    engine = sa.create_engine(url, connect_args={"timeout": BUSY_TIMEOUT_S, "check_same_thread": False})
    sa.event.listen(engine, "connect", _set_up_sqlite)
    sa.event.listen(engine, "begin", _begin_sqlite)
    # Changing to WAL does not wait for other processes that do the same; so it is done behind a lock.
    with alone(path):
        path.touch(mode=0o600)
        _bring_up_to_date(engine)
    return Database(engine, threading.Lock())


def _set_up_sqlite(connection: Any, _: Any) -> None:
    connection.isolation_level = None  # the driver would begin and commit by rules of its own
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "secure_delete=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: sa.Connection) -> None:
    connection.exec_driver_sql(f"BEGIN {connection.get_execution_options().get('begin', 'DEFERRED')}")


def _open_postgres(url: sa.URL) -> Database:
    try:
        engine = sa.create_engine(url, pool_pre_ping=True, connect_args={"options": "-c synchronous_commit=on"})
    except (NoSuchModuleError, ModuleNotFoundError):
        raise FeedbackStoreError("PostgreSQL's driver is not installed: pip install 'rayrlhf[postgres]'") from None
    _bring_up_to_date(engine)
    return Database(engine)


@contextmanager
def _begin(engine: sa.Engine, lock: str) -> Iterator[sa.Connection]:
    """A write transaction. On PostgreSQL, holders of the same lock wait for each other until it ends."""
    with engine.execution_options(begin="IMMEDIATE").begin() as connection:
        if engine.dialect.name == "postgresql":
            number = int.from_bytes(hashlib.sha256(lock.encode()).digest()[:8], "big", signed=True)
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(number)))
        yield connection


def _bring_up_to_date(engine: sa.Engine) -> None:
    with _begin(engine, _MIGRATION_LOCK) as connection:
        found = _schema_version(connection)
        if found == SCHEMA_VERSION:
            return
        if found is not None and found > SCHEMA_VERSION:
            raise FeedbackStoreError(
                f"the feedback store has schema {found} and this rayrlhf knows up to {SCHEMA_VERSION}: "
                "use the newer rayrlhf that wrote it"
            )
        _migrate(connection)


def _schema_version(connection: sa.Connection) -> str | None:
    if not sa.inspect(connection).has_table(VERSION_TABLE):
        return None
    table = sa.table(VERSION_TABLE, sa.column("version_num"))
    return connection.execute(sa.select(table.c.version_num)).scalar()


def _migrate(connection: sa.Connection) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", "rayrlhf.feedback:migrations")
    command.upgrade(config, "head")
