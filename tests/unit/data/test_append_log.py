import os
import uuid

import pytest

from rayrlhf.data import append_log
from rayrlhf.data.append_log import AppendLog
from rayrlhf.data.durable import as_path, read_bytes, write_durably

LINES = [b"one\n", b"two\n", b"three\n"]


@pytest.fixture(params=["local", "remote"])
def path(request, tmp_path):
    folder = tmp_path if request.param == "local" else as_path(f"memory://{uuid.uuid4().hex}")
    return folder / "runs" / "log.jsonl"


@pytest.fixture
def writes(monkeypatch):
    """Every whole file that is written."""
    seen = []
    monkeypatch.setattr(append_log, "write_durably", lambda path, data: (seen.append(data), write_durably(path, data)))
    return seen


def test_every_line_is_there_when_append_returns(path):
    log = AppendLog(path)
    assert log.lines() == []
    for count, line in enumerate(LINES, start=1):
        log.append(line)
        assert read_bytes(path) == b"".join(LINES[:count])
        assert AppendLog(path).lines() == LINES[:count]


def test_a_log_that_is_opened_again_goes_on_after_its_last_line(path):
    AppendLog(path).append(LINES[0])
    AppendLog(path).append(LINES[1])
    assert AppendLog(path).lines() == LINES[:2]


def test_a_line_torn_at_any_byte_is_dropped_by_readers_and_by_the_next_append(path):
    for length in range(len(LINES[1])):
        write_durably(path, LINES[0] + LINES[1][:length])
        assert AppendLog(path).lines() == LINES[:1]
        AppendLog(path).append(LINES[2])
        assert read_bytes(path) == LINES[0] + LINES[2]


def test_replaced_lines_are_gone_for_the_next_append_too(path):
    log = AppendLog(path)
    for line in LINES:
        log.append(line)
    log.replace(LINES[:1])
    log.append(LINES[2])
    assert log.lines() == [LINES[0], LINES[2]]


def test_a_local_line_costs_its_own_bytes_and_is_synced(tmp_path, writes, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.readlink(f"/proc/self/fd/{descriptor}")))
    log = AppendLog(tmp_path / "log")
    for line in LINES:
        log.append(line)
    assert writes == []
    assert synced.count(str(tmp_path / "log")) == 3


def test_after_a_local_append_that_failed_the_next_one_is_whole(tmp_path, monkeypatch):
    log = AppendLog(tmp_path / "log")
    log.append(LINES[0])

    def full(path, data):
        with path.open("ab") as file:
            file.write(data[:2])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(append_log, "append_durably", full)
        with pytest.raises(OSError, match="No space"):
            log.append(LINES[1])
    log.append(LINES[2])
    assert read_bytes(tmp_path / "log") == LINES[0] + LINES[2]


def test_a_remote_line_that_could_not_be_written_goes_with_the_next_one(monkeypatch):
    path = as_path(f"memory://{uuid.uuid4().hex}/log")
    log = AppendLog(path)

    def refuse(path, data):
        raise OSError(5, "no route")

    with monkeypatch.context() as patch:
        patch.setattr(append_log, "write_durably", refuse)
        with pytest.raises(OSError, match="no route"):
            log.append(LINES[0])
    log.append(LINES[1])
    assert AppendLog(path).lines() == LINES[:2]


def test_remote_lines_within_the_delay_share_a_write_and_none_waits_after_a_flush(writes):
    path = as_path(f"memory://{uuid.uuid4().hex}/log")
    log = AppendLog(path, delay_s=60.0)
    for line in LINES:
        log.append(line)
    assert writes == LINES[:1]
    log.flush()
    log.flush()
    assert writes == [LINES[0], b"".join(LINES)]
    assert log.lines() == LINES
