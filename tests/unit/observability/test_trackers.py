import json

from rayrlhf.observability.trackers import JsonlTracker, following


def steps(path):
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def test_a_resumed_run_drops_the_rows_after_its_checkpoint_and_a_torn_one(tmp_path):
    path = tmp_path / "metrics.jsonl"
    tracker = JsonlTracker(path)
    for step in (1, 2, 3):
        tracker.log(step, {"b": 1.0, "a": 2.0}, [])
    with path.open("a") as file:
        file.write('{"step": 4, "a"')
    JsonlTracker(path, keep_through=2).log(3, {"a": 5.0}, [])
    assert steps(path) == [1, 2, 3]
    assert json.loads(path.read_text().splitlines()[2])["a"] == 5.0


def test_every_step_is_shown_once_though_the_writer_starts_again(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 9}\n')  # of an earlier run
    shown = []
    with following(path, lambda row: shown.append(row["step"]), every_s=0.01):
        first = JsonlTracker(path)
        first.log(1, {}, [])
        first.log(2, {}, [])
        again = JsonlTracker(path)
        for step in (1, 2, 3):
            again.log(step, {}, [])
    assert shown == [1, 2, 3]
