import json

from rayrlhf.observability.events import EventLog


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_an_event_belongs_to_the_step_under_way_unless_it_says_another(tmp_path):
    events = EventLog(tmp_path / "events.jsonl")
    events.record("failure", "before any step")
    events.under_way("rollout", 3)
    events.record("failure", "in step 3", role="rollout")
    events.record("save_failed", "of step 2", step=2)
    assert [row.get("step") for row in rows(tmp_path / "events.jsonl")] == [None, 3, 2]


def test_a_note_is_written_but_not_shown(tmp_path):
    shown = []
    events = EventLog(tmp_path / "events.jsonl", shown.append)
    events.record("failure", "look")
    events.note("saved", "quietly")
    assert shown == ["look"]
    assert [row["event"] for row in rows(tmp_path / "events.jsonl")] == ["failure", "saved"]
