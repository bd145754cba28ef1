import json

from rayrlhf.report.history import read_history
from rayrlhf.report.marks import MOST_ROWS, MOST_SAVES, event_rows, marks
from rayrlhf.report.status import final_numbers, key_numbers, status_of, title_of
from rayrlhf.stages.run_directory import RunDirectory
from tests.unit.report.runs import reward_run, rl_run


def append(path, *rows):
    with path.open("a") as file:
        file.write("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows))


def test_the_torn_last_line_of_a_run_that_writes_is_no_damage(tmp_path):
    directory = rl_run(tmp_path, done=2, end="")
    append(directory.metrics, '{"step": 3, "rew')
    append(directory.events, '{"time": 1')
    history = read_history(directory)
    assert list(history.steps) == [1, 2]
    assert history.damage.notes == []


def test_a_broken_line_is_named_and_the_others_count(tmp_path):
    directory = rl_run(tmp_path, done=1, end="")
    append(directory.metrics, "{oops\n", {"step": 2, "reward/mean": 0.5})
    history = read_history(directory)
    assert list(history.steps) == [1, 2]
    assert history.damage.notes == [f"{directory.metrics}, line 2: damaged, left out"]


def test_numbers_that_are_not_finite_are_missing(tmp_path):
    history = read_history(rl_run(tmp_path))
    assert list(history.columns["policy/gradient_norm"]) == [1, 2, 4, 5, 6]


def test_a_step_that_is_written_twice_counts_once(tmp_path):
    directory = rl_run(tmp_path, done=2)
    append(directory.metrics, {"step": 2, "reward/mean": 9.0})
    history = read_history(directory)
    assert history.columns["reward/mean"] == {1: 0.1, 2: 9.0}


def test_a_batch_set_aside_tells_its_rows_without_its_tensors_being_read(tmp_path):
    directory = rl_run(tmp_path)
    directory.set_aside.mkdir()
    about = json.dumps({"__metadata__": {"trajectory_ids": "a,b,c", "bad_trajectory_ids": "b"}}).encode()
    (directory.set_aside / "step-000003-policy.safetensors").write_bytes(len(about).to_bytes(8, "little") + about)
    (directory.set_aside / "x.safetensors").write_bytes(b"\xff" * 20)
    history = read_history(directory)
    assert [(batch.rows, batch.bad_ids) for batch in history.set_aside[:1]] == [(3, ("b",))]
    assert "x.safetensors" in history.damage.notes[0]


def status(directory):
    found = status_of(read_history(directory))
    return found.word, found.done, found.total, found.cause


def test_a_run_is_what_it_last_said_of_itself(tmp_path):
    assert status(rl_run(tmp_path / "a")) == ("finished", 6, 6, "")
    assert status(rl_run(tmp_path / "b", done=2, end="failed")) == ("failed", 2, 6, "failed: because of this")
    interrupted = rl_run(tmp_path / "c", done=3, end="interrupted")
    assert status(interrupted)[0] == "interrupted"
    append(interrupted.events, {"time": 2.0, "event": "started", "message": "", "step": 3, "steps": 9})
    assert status(interrupted) == ("unfinished", 3, 9, "")


def test_a_run_without_events_is_finished_when_its_result_is_there(tmp_path):
    directory = rl_run(tmp_path / "a")
    directory.events.unlink()
    assert status(directory) == ("finished", 6, 6, "")
    assert status(reward_run(tmp_path / "b")) == ("finished", 3, None, "")
    begun = rl_run(tmp_path / "c", done=2, end="")
    begun.events.unlink()
    assert status(begun) == ("unfinished", 2, 6, "")


def test_key_numbers_compare_the_newest_step_with_the_first(tmp_path):
    found = {item.name: item for item in key_numbers(read_history(rl_run(tmp_path)))}
    assert (found["Reward"].value, found["Reward"].beside) == ("0.6", "0.1 at step 1")
    assert (found["Time in steps"].value, found["Time in steps"].unit) == ("30", "s")


def test_a_value_with_its_bounds_is_one_number():
    found = final_numbers(
        {"held_out/accuracy": 0.75, "held_out/accuracy_low": 0.5, "held_out/accuracy_high": 0.9, "b_low": 1}
    )
    assert [(item.name, item.beside) for item in found] == [("held_out/accuracy", "50% to 90%"), ("b_low", "")]


def test_a_run_without_a_name_is_called_by_its_directory(tmp_path):
    (tmp_path / "metrics.jsonl").touch()
    assert title_of(read_history(RunDirectory(tmp_path))) == (tmp_path.name, "run")


def test_a_step_has_one_mark_in_the_tone_of_its_worst_event(tmp_path):
    directory = rl_run(tmp_path)
    append(directory.events, {"event": "recovered", "message": "back", "step": 4}, {"event": "odd", "message": "?"})
    history = read_history(directory)
    found = {mark.step: mark for mark in marks(history.events, history.steps)}
    assert {step: mark.tone for step, mark in found.items()} == {0: "plain", 4: "trouble", 6: "good"}
    assert found[4].title == "step 4\nfailure: learner 0 died in learn of step 4: restart\nrecovered: back"


def test_many_saves_hide_no_failure(tmp_path):
    directory = rl_run(tmp_path)
    saves = [{"event": "saved", "message": "x", "step": 1 + n % 6} for n in range(max(MOST_ROWS, MOST_SAVES) + 1)]
    append(directory.events, *saves)
    history = read_history(directory)
    assert [mark.step for mark in marks(history.events, history.steps)] == [0, 6, 4]
    rows, left_out = event_rows(history.events)
    assert [row.kind for row in rows] == ["started", "failure", "finished"]
    assert left_out == len(saves)
