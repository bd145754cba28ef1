"""Stores to test with: SQLite files, and databases of a PostgreSQL server that the tests start themselves."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
import uuid
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.ports import free_port
from tests.unit.feedback.people import Clock, service_at


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture(params=["sqlite", "postgres"])
def store_url(request, tmp_path):
    """Each law holds in both databases."""
    if request.param == "sqlite":
        return str(tmp_path / "feedback.db")
    return request.getfixturevalue("postgres_url")


@pytest.fixture
def service(store_url, tmp_path, clock):
    with service_at(store_url, tmp_path, clock) as service:
        yield service


@pytest.fixture
def sqlite_service(tmp_path, clock):
    with service_at(str(tmp_path / "feedback.db"), tmp_path, clock) as service:
        yield service


@pytest.fixture
def postgres_url(postgres_server):
    """A new database."""
    name = f"t{uuid.uuid4().hex}"
    engine = sa.create_engine(f"{postgres_server}/postgres", isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    engine.dispose()
    return f"{postgres_server}/{name}"


@pytest.fixture(scope="session")
def postgres_server():
    """A temporary cluster on loopback, stopped and removed at the end."""
    pytest.importorskip("psycopg", reason="PostgreSQL's driver is not installed")
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    initdb = programs[-1] if programs else shutil.which("initdb")
    if initdb is None:
        pytest.skip("PostgreSQL's server is not installed (Debian: apt install postgresql)")
    run = {"check": True, "stdout": subprocess.DEVNULL, "stderr": subprocess.STDOUT} | _owner()
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    if "user" in run:
        shutil.chown(folder, run["user"])
    port = free_port()
    control = [str(Path(initdb).with_name("pg_ctl")), "-D", str(folder / "data"), "-w"]
    options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
    try:
        subprocess.run([initdb, "-D", folder / "data", "-A", "trust", "-U", "postgres"], cwd=folder, **run)
        subprocess.run([*control, "-o", options, "-l", folder / "log", "start"], cwd=folder, **run)
        yield f"postgresql+psycopg://postgres@127.0.0.1:{port}"
        subprocess.run([*control, "-m", "immediate", "stop"], cwd=folder, **run)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _owner():
    """The server does not run as root."""
    if os.geteuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        try:
            return {"user": pwd.getpwnam(name).pw_name}
        except KeyError:
            continue
    pytest.skip("PostgreSQL's server does not run as root, and there is no other user")
