import json
import uuid

import pytest

from rayrlhf.data.append_log import AppendLog
from rayrlhf.data.durable import as_path, write_durably
from rayrlhf.observability.trackers import JsonlTracker, following, tensorboard_trackers


@pytest.fixture(params=["local", "remote"])
def path(request, tmp_path):
    folder = tmp_path if request.param == "local" else as_path(f"memory://{uuid.uuid4().hex}")
    return folder / "metrics.jsonl"


def rows(path):
    return [json.loads(line) for line in AppendLog(path).lines()]


def steps(path):
    return [row["step"] for row in rows(path)]


def test_a_resumed_run_drops_the_rows_after_its_checkpoint_and_a_torn_one(path):
    tracker = JsonlTracker(path)
    for step in (1, 2, 3):
        tracker.log(step, {"b": 1.0, "a": 2.0}, [])
    write_durably(path, b"".join(AppendLog(path).lines()) + b'{"step": 4, "a"')
    JsonlTracker(path, keep_through=2).log(3, {"a": 5.0}, [])
    assert steps(path) == [1, 2, 3]
    assert rows(path)[2]["a"] == 5.0


def test_a_step_that_is_computed_again_keeps_its_row(path):
    JsonlTracker(path).log(1, {"a": 1.0}, [])
    again = JsonlTracker(path, keep_through=1)
    again.log(1, {"a": 2.0}, [])
    again.log(2, {"a": float("nan")}, [])
    assert rows(path) == [{"step": 1, "a": 1.0}, {"step": 2, "a": None}]


def test_rows_that_may_wait_are_all_there_after_a_flush(path):
    tracker = JsonlTracker(path, delay_s=60.0)
    for step in (1, 2, 3):
        tracker.log(step, {}, [])
    tracker.flush()
    assert steps(path) == [1, 2, 3]


def test_every_step_is_shown_once_though_the_writer_starts_again(path):
    write_durably(path, b'{"step": 9}\n')  # of an earlier run
    shown = []
    with following(path, lambda row: shown.append(row["step"]), every_s=0.01):
        first = JsonlTracker(path)
        first.log(1, {}, [])
        first.log(2, {}, [])
        again = JsonlTracker(path)
        for step in (1, 2, 3):
            again.log(step, {}, [])
    assert shown == [1, 2, 3]


def test_tensorboard_has_local_files_only(tmp_path):
    (tracker,) = tensorboard_trackers(tmp_path / "tensorboard", 0)
    tracker.log(1, {"a": 1.0}, [])
    assert list((tmp_path / "tensorboard").iterdir())
    assert tensorboard_trackers(as_path("memory://tensorboard"), 0) == []
