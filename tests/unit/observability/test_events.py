import json
import uuid

import pytest

from rayrlhf.data import append_log
from rayrlhf.data.append_log import AppendLog
from rayrlhf.data.durable import as_path
from rayrlhf.observability.events import EventLog


@pytest.fixture(params=["local", "remote"])
def path(request, tmp_path):
    folder = tmp_path if request.param == "local" else as_path(f"memory://{uuid.uuid4().hex}")
    return folder / "events.jsonl"


def messages(path):
    return [json.loads(line)["message"] for line in AppendLog(path).lines()]


def test_events_of_a_run_that_is_resumed_come_after_the_earlier_ones(path):
    EventLog(path).record("failure", "first", role="learner")
    EventLog(path).record("recovered", "second")
    assert messages(path) == ["first", "second"]
    assert json.loads(AppendLog(path).lines()[0])["role"] == "learner"


def test_an_event_that_cannot_be_written_is_shown_and_the_run_goes_on(path, monkeypatch):
    shown = []
    log = EventLog(path, shown.append)
    log.record("failure", "first")

    def refuse(path, data):
        raise OSError(5, "no route")

    with monkeypatch.context() as patch:
        patch.setattr(append_log, "write_durably", refuse)
        patch.setattr(append_log, "append_durably", refuse)
        log.record("save_failed", "second")
    log.record("recovered", "third")
    assert shown[0] == "first"
    assert shown[1].startswith("second (this event could not be written: ")
    assert [m for m in messages(path) if m != "second"] == ["first", "third"]
