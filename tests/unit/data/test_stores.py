import pickle
import uuid

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from rayrlhf.data import durable, stores
from rayrlhf.data.journal import Journal
from rayrlhf.data.stores import arrow_filesystem, as_path, place_of, require_store
from rayrlhf.errors import StorageError

OPERATIONS = {
    "pipe_file": lambda file: durable.write_durably(file, b"new"),
    "cat_file": durable.read_bytes,
    "info": durable.is_file,
    "ls": lambda file: durable.entries(file.parent),
    "rm_file": durable.remove_file,
    "rm": lambda file: durable.remove_tree(file.parent),
    "open": durable.digest_file,
    "cat": lambda file: durable.read_folder(file.parent, ".txt"),
}


@pytest.fixture
def file():
    path = as_path(f"memory://{uuid.uuid4().hex}/file.txt")
    durable.write_durably(path, b"old")
    return path


@pytest.fixture
def waits(monkeypatch):
    """How long each new attempt was waited for."""
    slept = []
    monkeypatch.setattr(stores.time, "sleep", slept.append)
    return slept


@pytest.fixture
def breaking(monkeypatch, waits):
    """Lets a method of the store raise `error` for its first `times` calls."""

    def start(method, error, times):
        works, left = getattr(MemoryFileSystem, method), [times]

        def fail(*args, **kwargs):
            if left[0] > 0:
                left[0] -= 1
                raise error
            return works(*args, **kwargs)

        monkeypatch.setattr(MemoryFileSystem, method, fail)

    return start


class ClientError(Exception):
    """A store's own exception, such as botocore's, which are no OSErrors."""


@pytest.mark.parametrize("error", [ClientError("no route"), OSError(16, "slow down")], ids=["its own", "OSError"])
@pytest.mark.parametrize("method", OPERATIONS)
def test_what_fails_in_passing_is_tried_again_after_longer_and_longer_waits(file, breaking, waits, method, error):
    breaking(method, error, times=3)
    OPERATIONS[method](file)
    assert waits == list(stores.RETRY_WAITS_S[:3])


@pytest.mark.parametrize("method", OPERATIONS)
def test_what_keeps_failing_is_an_os_error_that_names_the_path_and_the_cause(file, breaking, waits, method):
    breaking(method, ClientError("no route"), times=10**6)
    with pytest.raises(StorageError, match=rf"^memory://{file.parent.name}.*: no route \(ClientError\)"):
        OPERATIONS[method](file)
    assert waits == list(stores.RETRY_WAITS_S)


def test_refused_permission_is_not_asked_for_again(file, breaking, waits):
    breaking("pipe_file", PermissionError(13, "denied"), times=1)
    with pytest.raises(StorageError, match="denied") as raised:
        durable.write_durably(file, b"new")
    assert (raised.value.errno, waits) == (13, [])


def test_an_absent_file_is_an_answer(file, waits):
    absent = file.parent / "absent"
    with pytest.raises(FileNotFoundError):
        durable.read_bytes(absent)
    assert not durable.is_file(absent)
    assert not durable.exists(absent)
    assert durable.exists(file.parent)
    assert waits == []


def test_a_store_that_cannot_be_reached_does_not_make_a_journal_damaged(file, breaking):
    journal = Journal(file.parent)
    durable.write_durably(file.parent / "step-000001.parquet", b"PAR1")
    breaking("cat_file", ClientError("no route"), times=10**6)
    for look in (journal.check, lambda: journal.rows(1)):
        with pytest.raises(StorageError, match="no route"):
            look()


def test_a_store_that_can_be_reached_may_be_empty(file, breaking):
    require_store(file.parent)
    require_store(file.parent / "absent")
    breaking("ls", ClientError("no route"), times=10**6)
    with pytest.raises(StorageError, match="no route"):
        require_store(file.parent / "absent")


def test_a_storage_error_travels_between_processes():
    error = StorageError(5, "no route", "s3://bucket/a")
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.errno) == ("s3://bucket/a: no route", 5)


def test_a_slash_at_the_end_names_the_same_folder():
    assert as_path("memory://a/b/") == as_path("memory://a/b")


def test_arrow_reads_what_is_in_the_store(file):
    with arrow_filesystem(file).open_input_stream(place_of(file)) as stream:
        assert stream.read() == b"old"
