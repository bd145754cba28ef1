import pytest

from rayrlhf.data.journal import SegmentWriter, commit_step, open_folder, read_committed, read_open
from rayrlhf.errors import CheckpointError
from rayrlhf.types import Completion, Message, Prompt, Reward, Rewards, Trajectory, VersionSpan


def trajectory(number):
    completion = Completion((5, 2), (-0.25, -1.5), "stop", (VersionSpan(0, 1, 3), VersionSpan(1, 2, 4)))
    prompt = Prompt("p1", (Message(role="user", content="Hi\n“x”"),), (1, 9), "42", {"a": 1})
    return Trajectory(f"000001-00000-{number:03d}", "000001-00000", number, prompt, completion)


def test_what_was_appended_is_read_back(tmp_path):
    SegmentWriter(tmp_path, "b").append(1, [trajectory(1)])
    SegmentWriter(tmp_path, "a").append(1, [trajectory(0), trajectory(2)])
    assert read_open(tmp_path, 1) == [trajectory(0), trajectory(1), trajectory(2)]


def test_a_torn_last_line_is_dropped_and_a_damaged_line_is_named(tmp_path):
    SegmentWriter(tmp_path, "a").append(1, [trajectory(0), trajectory(1)])
    segment = open_folder(tmp_path, 1) / "a.jsonl"
    whole = segment.read_bytes()
    segment.write_bytes(whole[:-7])
    assert read_open(tmp_path, 1) == [trajectory(0)]
    segment.write_bytes(whole.replace(b"p1", b"p2", 1))
    with pytest.raises(CheckpointError, match=r"a\.jsonl, line 1"):
        read_open(tmp_path, 1)


def test_a_new_writer_goes_on_after_a_torn_line(tmp_path):
    SegmentWriter(tmp_path, "a").append(1, [trajectory(0), trajectory(1)])
    segment = open_folder(tmp_path, 1) / "a.jsonl"
    segment.write_bytes(segment.read_bytes()[:-7])
    SegmentWriter(tmp_path, "a").append(1, [trajectory(1), trajectory(2)])
    assert read_open(tmp_path, 1) == [trajectory(0), trajectory(1), trajectory(2)]


def test_a_commit_has_the_documented_columns_and_drops_the_segments(tmp_path):
    SegmentWriter(tmp_path, "a").append(1, [trajectory(0)])
    commit_step(tmp_path, 1, [trajectory(0)], Rewards({trajectory(0).id: Reward(0.5, {"x": 0.5}, "ok")}))
    (row,) = read_committed(tmp_path, 1)
    assert row["policy_versions"] == [3, 4]
    assert row["behaviour_logprobs"] == [-0.25, -1.5]
    assert (row["reward"], row["reward_status"], row["finish_reason"]) == (0.5, "ok", "stop")
    assert not open_folder(tmp_path, 1).exists()
    assert list(tmp_path.glob("*.partial")) == []
