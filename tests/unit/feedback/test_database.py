import os
import stat
import subprocess
import sys

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from rayrlhf.errors import FeedbackStoreError
from rayrlhf.feedback import schema
from rayrlhf.feedback.database import open_database
from rayrlhf.feedback.store import open_store

OPEN = "import sys; from rayrlhf.feedback.store import open_store; open_store(sys.argv[1]).close()"


def test_the_migrations_make_the_tables_that_the_code_knows(store_url):
    database = open_database(store_url)
    with database.read() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": schema.VERSION_TABLE})
        assert compare_metadata(context, schema.metadata) == []
    database.close()


def test_the_schema_version_is_the_newest_migration():
    config = Config()
    config.set_main_option("script_location", "rayrlhf.feedback:migrations")
    assert ScriptDirectory.from_config(config).get_current_head() == schema.SCHEMA_VERSION


def test_processes_that_open_a_new_store_at_once_all_succeed(store_url):
    started = [
        subprocess.Popen([sys.executable, "-c", OPEN, store_url], stderr=subprocess.PIPE, text=True) for _ in range(4)
    ]
    assert [process.communicate(timeout=60)[1] for process in started] == [""] * 4


def test_a_newer_schema_is_an_error_that_says_so(store_url):
    database = open_database(store_url)
    with database.write("x") as connection:
        connection.exec_driver_sql(f"UPDATE {schema.VERSION_TABLE} SET version_num = '9999'")
    database.close()
    with pytest.raises(FeedbackStoreError, match=r"schema 9999 .* knows up to 0001"):
        open_database(store_url)


def test_a_file_that_is_no_database_is_an_error_and_stays_as_it_is(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("not a database " * 100)
    with pytest.raises(FeedbackStoreError, match=r"notes\.txt: cannot be opened"):
        open_store(str(path))
    assert path.read_text() == "not a database " * 100


@pytest.mark.parametrize("create", [True, False])
def test_a_folder_is_not_a_store(tmp_path, create):
    with pytest.raises(FeedbackStoreError, match="no such feedback store"):
        open_store(str(tmp_path), create=create)


def test_reading_does_not_make_a_store(tmp_path):
    with pytest.raises(FeedbackStoreError, match="no such feedback store"):
        open_store(str(tmp_path / "typo.db"), create=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("url", ["mysql://host/name", "sqlite://", "postgresql://host/name", "://", "http://x y"])
def test_other_urls_are_refused(url):
    with pytest.raises(FeedbackStoreError, match="postgresql"):
        open_store(url)


def test_a_password_is_in_no_message():
    with pytest.raises(FeedbackStoreError) as refused:
        open_store("postgresql+psycopg://me:hunter2@127.0.0.1:1/none")
    assert "hunter2" not in str(refused.value)
    assert "127.0.0.1" in str(refused.value)


def test_an_sqlite_store_is_durable_and_private(tmp_path):
    database = open_database(str(tmp_path / "new" / "feedback.db"))
    with database.read() as connection:
        pragmas = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in ("journal_mode", "synchronous")
        }
        assert pragmas == {"journal_mode": "wal", "synchronous": 2}
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
    database.close()
    assert stat.S_IMODE(os.stat(tmp_path / "new" / "feedback.db").st_mode) == 0o600


def test_postgres_commits_synchronously_whatever_the_server_says(postgres_url):
    engine = sa.create_engine(postgres_url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(f"ALTER DATABASE {engine.url.database} SET synchronous_commit = off")
    engine.dispose()
    database = open_database(postgres_url)
    with database.read() as connection:
        assert connection.exec_driver_sql("SHOW synchronous_commit").scalar() == "on"
    database.close()
