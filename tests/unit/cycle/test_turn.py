import json

import pytest

from rayrlhf.cycle.turn import Turn, next_turn, turns
from rayrlhf.errors import DataError


def test_a_stage_is_done_once_and_found_again_by_the_next_process(tmp_path):
    done = []

    def stage():
        done.append(1)
        return {"model": "m"}

    first = Turn(tmp_path / "turn-0001").once("rl", stage)
    assert Turn(tmp_path / "turn-0001").once("rl", stage) == first
    assert done == [1]
    assert first["model"] == "m"


def test_a_stage_that_fails_is_not_remembered(tmp_path):
    turn = Turn(tmp_path / "turn-0001")
    with pytest.raises(ZeroDivisionError):
        turn.once("rl", lambda: {"x": 1 / 0})
    assert turn.found("rl") is None
    assert turn.once("rl", lambda: {"x": 1})["x"] == 1


def test_turns_are_those_that_began_in_their_order(tmp_path):
    for number in (2, 1):
        next_turn(tmp_path, number).once("collect", dict)
    (tmp_path / "turn-0003").mkdir()
    begun = turns(tmp_path)
    assert [turn.folder.name for turn in begun] == ["turn-0001", "turn-0002"]
    assert not begun[-1].is_decided
    begun[-1].once("decision", lambda: {"decision": "promoted"})
    assert begun[-1].is_decided


def test_a_damaged_turn_is_named(tmp_path):
    turn = next_turn(tmp_path, 1)
    turn.once("collect", dict)
    path = turn.folder / "turn.json"
    for broken in (path.read_text()[:-3], json.dumps([1])):
        path.write_text(broken)
        with pytest.raises(DataError, match=r"turn\.json: damaged"):
            turn.found("collect")
