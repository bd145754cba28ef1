import json

import pytest

from rayrlhf.errors import InterruptedRunError, RecoveryError
from rayrlhf.observability.events import EventLog
from rayrlhf.stages.recording import recording
from rayrlhf.stages.run_directory import RunDirectory


def record(directory, error=None):
    with recording(directory, EventLog(directory.events), 2, 9):
        if error is not None:
            raise error


def events(directory):
    return [(row["event"], row["message"]) for row in map(json.loads, directory.events.read_text().splitlines())]


def test_a_run_leaves_its_beginning_its_end_and_its_page(tmp_path, capsys):
    directory = RunDirectory(tmp_path)
    record(directory)
    assert events(directory) == [("started", "goes on after step 2"), ("finished", "finished")]
    assert "finished" in directory.report.read_text()
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (RecoveryError("learner 0 died too often"), "failed", "RecoveryError: learner 0 died too often"),
        (InterruptedRunError("step 3 is saved", 143), "interrupted", "step 3 is saved"),
        (KeyboardInterrupt(), "interrupted", "interrupted by Ctrl-C"),
        (ZeroDivisionError("x"), "failed", "ZeroDivisionError: x"),
    ],
)
def test_a_run_that_ends_early_says_why_on_its_page_and_raises_the_same_error(tmp_path, capsys, error, kind, message):
    directory = RunDirectory(tmp_path)
    with pytest.raises(type(error)) as raised:
        record(directory, error)
    assert raised.value is error
    assert events(directory)[-1] == (kind, message)
    assert message in directory.report.read_text()
    assert str(directory.report) in capsys.readouterr().out


@pytest.mark.parametrize("error", [None, RecoveryError("the cause")])
def test_a_page_that_cannot_be_written_changes_nothing_about_how_a_run_ends(tmp_path, capsys, error):
    directory = RunDirectory(tmp_path)
    directory.report.mkdir()
    if error is None:
        record(directory)
    else:
        with pytest.raises(RecoveryError, match="the cause"):
            record(directory, error)
    assert "report.html is not written" in capsys.readouterr().out
