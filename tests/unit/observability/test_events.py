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


def rows(path):
    return [json.loads(line) for line in AppendLog(path).lines()]


def test_an_event_belongs_to_the_step_under_way_unless_it_says_another(path):
    events = EventLog(path)
    events.record("failure", "before any step")
    events.under_way("rollout", 3)
    events.record("failure", "in step 3", role="rollout")
    events.record("save_failed", "of step 2", step=2)
    assert [row.get("step") for row in rows(path)] == [None, 3, 2]


def test_a_note_is_written_but_not_shown(path):
    shown = []
    events = EventLog(path, shown.append)
    events.record("failure", "look")
    events.note("saved", "quietly")
    assert shown == ["look"]
    assert [row["event"] for row in rows(path)] == ["failure", "saved"]
