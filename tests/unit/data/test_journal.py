import json
import math
import os
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from random import Random

import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from rayrlhf.data import journal as journal_module
from rayrlhf.data import segments
from rayrlhf.data.durable import append_durably, as_path, entries, read_bytes, write_durably
from rayrlhf.data.journal import SCHEMA, Journal, Rejection, arrow_schema
from rayrlhf.data.rows import read_rankings
from rayrlhf.data.segments import SegmentWriter, decode, encode, open_folder, open_steps, read_open
from rayrlhf.errors import CheckpointError
from rayrlhf.types import Completion, Rewards, Trajectory, VersionSpan
from tests.unit.data.journals import append, by_id, commit, rewards, trajectories, trajectory

PAGE = Path(__file__).parents[3] / "docs" / "journal.md"


@pytest.fixture(params=["local", "remote"])
def folder(request, tmp_path):
    return tmp_path if request.param == "local" else as_path(f"memory://{uuid.uuid4().hex}")


def test_a_check_reads_the_metadata_of_a_large_step_and_not_its_rows(folder):
    random = Random(0)
    logprobs = tuple(random.random() for _ in range(100_000))
    tokens = tuple(range(100_000))
    completion = Completion(tokens, logprobs, "stop", (VersionSpan(0, len(tokens), 3),))
    commit(folder, 1, replace(trajectory(0), completion=completion))
    file = folder / "step-000001.parquet"
    whole = read_bytes(file)
    assert len(whole) > 8 * journal_module._FOOTER_BYTES
    Journal(folder).check()
    for damaged in (whole[:-1], whole[: len(whole) // 2], whole[:-8] + b"\xff\xff\xff\x00PAR1", b"PAR1", b""):
        write_durably(file, damaged)
        with pytest.raises(CheckpointError, match=r"step-000001\.parquet: truncated or damaged"):
            Journal(folder).check()


@settings(deadline=None)
@given(trajectories())
def test_a_segment_line_keeps_every_bit(written):
    line = encode(written)
    assert line.count(b"\n") == 1
    assert repr(decode(line[:-1])) == repr(written)


@settings(deadline=None)
@given(st.lists(st.tuples(trajectories(), rewards, st.text()), max_size=3, unique_by=lambda t: t[0].id))
def test_a_committed_step_keeps_every_bit(tmp_path_factory, drawn):
    journal = Journal(tmp_path_factory.mktemp("journal"))
    scores = Rewards({t.id: reward for t, reward, _ in drawn})
    texts = {t.id: text for t, _, text in drawn}
    journal.commit(7, [t for t, _, _ in drawn], scores, texts)
    assert repr(journal.read(7)) == repr(dict(sorted(by_id(*(t for t, _, _ in drawn)).items())))
    assert dict(journal.rewards(7).by_id) == dict(scores.by_id)
    assert {row["trajectory_id"]: row["response"] for row in journal.rows(7)} == texts


def test_what_was_appended_is_read_back_in_the_order_of_ids(folder):
    append(folder, "b", trajectory(1))
    append(folder, "a", trajectory(2), trajectory(0))
    append(folder, "a", trajectory(3), step=2)
    assert list(read_open(folder, 1).items()) == list(by_id(*map(trajectory, range(3))).items())
    assert Journal(folder).read(2) == by_id(trajectory(3))
    assert open_steps(folder) == [1, 2]
    assert Journal(folder).read(3) == {}


def test_of_two_copies_the_first_segment_wins(tmp_path):
    other = Trajectory(trajectory(0).id, "other", 0, trajectory(0).prompt, trajectory(0).completion)
    append(tmp_path, "b", other)
    append(tmp_path, "a", trajectory(0))
    assert read_open(tmp_path, 1) == by_id(trajectory(0))


def test_on_a_remote_directory_each_batch_is_an_object():
    folder = as_path(f"memory://{uuid.uuid4().hex}")
    append(folder, "a", trajectory(0), trajectory(1))
    assert [path.name for path in entries(open_folder(folder, 1))] == ["a-000001.jsonl", "a-000002.jsonl"]


def test_appends_of_many_threads_share_syncs_and_are_all_durable(tmp_path, monkeypatch):
    syncs, release, fsync = [], threading.Event(), os.fsync

    def slow_fsync(descriptor):
        release.wait(10)  # the first sync lasts until everything is queued
        syncs.append(descriptor)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", slow_fsync)
    writer = SegmentWriter(tmp_path, "a")
    with ThreadPoolExecutor(8) as pool:
        futures = list(pool.map(lambda n: writer.append(1, trajectory(n)), range(64)))
    assert not any(future.done() for future in futures)
    release.set()
    for future in futures:
        future.result(10)
    assert read_open(tmp_path, 1) == by_id(*map(trajectory, range(64)))
    assert len(syncs) <= 5  # three folders and two batches
    writer.close()


def test_a_future_ends_only_after_its_line_is_on_disk(tmp_path, monkeypatch):
    fsync, may_sync = os.fsync, threading.Event()
    monkeypatch.setattr(os, "fsync", lambda descriptor: (may_sync.wait(10), fsync(descriptor)))
    writer = SegmentWriter(tmp_path, "a")
    future = writer.append(1, trajectory(0))
    with pytest.raises(TimeoutError):
        future.result(0.05)
    assert not future.cancel()
    may_sync.set()
    future.result(10)
    writer.close()


def test_an_error_reaches_the_waiting_and_later_appends_are_durable(folder, monkeypatch):
    def full_disk(path, data):
        if path.suffix == ".jsonl" and isinstance(path, Path):
            append_durably(path, data[:-9])  # a torn line, as a full disk leaves it
        raise OSError(28, "No space left on device")

    writer = SegmentWriter(folder, "a")
    writer.append(1, trajectory(0)).result(10)
    with monkeypatch.context() as patch:
        patch.setattr(segments, "append_durably", full_disk)
        patch.setattr(segments, "write_durably", full_disk)
        failed = writer.append(1, trajectory(1))
        with pytest.raises(OSError, match="No space"):
            failed.result(10)
    writer.append(1, trajectory(2)).result(10)
    writer.close()
    assert read_open(folder, 1) == by_id(trajectory(0), trajectory(2))


def test_close_waits_for_everything_queued_and_refuses_more(tmp_path):
    writer = SegmentWriter(tmp_path, "a")
    futures = [writer.append(1 + n % 3, trajectory(n)) for n in range(30)]
    writer.close()
    writer.close()
    assert all(future.done() for future in futures)
    assert sum(len(read_open(tmp_path, step)) for step in (1, 2, 3)) == 30
    with pytest.raises(ValueError, match="closed"):
        writer.append(1, trajectory(0))


def test_a_last_line_torn_at_any_byte_is_ignored(tmp_path):
    append(tmp_path, "a", trajectory(0), trajectory(1))
    segment = open_folder(tmp_path, 1) / "a.jsonl"
    whole = segment.read_bytes()
    for length in range(whole.index(b"\n") + 1, len(whole)):
        segment.write_bytes(whole[:length])
        assert read_open(tmp_path, 1) == by_id(trajectory(0))


def test_a_damaged_line_is_named(tmp_path):
    append(tmp_path, "a", trajectory(0), trajectory(1))
    segment = open_folder(tmp_path, 1) / "a.jsonl"
    whole = segment.read_bytes()
    first = whole.index(b"\n")
    for offset in range(first):
        segment.write_bytes(whole[:offset] + bytes([whole[offset] ^ 1]) + whole[offset + 1 :])
        with pytest.raises(CheckpointError, match=r"a\.jsonl, line [12]: .*remove the file"):
            read_open(tmp_path, 1)
    with pytest.raises(CheckpointError, match=r"a\.jsonl, line"):
        Journal(tmp_path).check()


@pytest.mark.parametrize("body", [b"{}", b"[]", b"3", b"{", b"\xff", b'{"id":"x","prompt":null,"completion":[]}'])
def test_a_line_with_a_right_checksum_that_is_no_trajectory_is_named(tmp_path, body):
    append_durably(open_folder(tmp_path, 1) / "a.jsonl", b"%08x %s\n" % (segments.zlib.crc32(body), body))
    with pytest.raises(CheckpointError, match=r"a\.jsonl, line 1"):
        read_open(tmp_path, 1)


def test_a_commit_has_the_documented_columns_and_drops_the_segments(folder):
    append(folder, "a", trajectory(0), trajectory(1))
    commit(folder, 1, trajectory(1), trajectory(0))
    row = Journal(folder).rows(1)[1]
    assert list(row) == list(SCHEMA)
    assert (row["policy_versions"], row["version_starts"]) == ([3, 4], [0, 1])
    assert (row["reward"], row["response"], row["step"]) == (1 / 3, "text 1", 1)
    assert json.loads(row["messages"]) == [{"role": "user", "content": "Hi\n“x”"}]
    assert open_steps(folder) == []
    assert [path.name for path in entries(folder) if path.name != "open"] == ["step-000001.parquet"]


def test_a_file_says_what_it_holds(tmp_path):
    commit(tmp_path, 12, trajectory(0), trajectory(1))
    schema = parquet.read_schema(tmp_path / "step-000012.parquet")
    assert schema.metadata[b"rayrlhf.step"] == b"12"
    assert schema.metadata[b"rayrlhf.rows"] == b"2"
    assert schema.field("reward").metadata[b"meaning"] == SCHEMA["reward"][1].encode()
    assert schema.equals(arrow_schema())


def test_a_committed_step_is_read_from_its_file_whatever_is_open(folder):
    scores = commit(folder, 1, trajectory(0))
    append(folder, "late", trajectory(1))
    assert Journal(folder).read(1) == by_id(trajectory(0))
    assert Journal(folder).rewards(1) == scores


def test_steps_and_tables_cover_what_is_committed(folder):
    for step in (2, 10, 1):
        commit(folder, step, trajectory(0), trajectory(1))
    append(folder, "a", trajectory(0), step=11)
    journal = Journal(folder)
    assert journal.committed_steps() == [1, 2, 10]
    assert journal.table()["step"].to_pylist() == [1, 1, 2, 2, 10, 10]
    assert journal.table([2]).num_rows == 2
    assert Journal(folder / "absent").table().schema.equals(arrow_schema())


def test_version_spans_that_cannot_be_rebuilt_are_refused(tmp_path):
    completion = Completion((5, 2), (-1.0, -1.0), "stop", (VersionSpan(0, 1, 3),))
    with pytest.raises(ValueError, match="version spans"):
        commit(tmp_path, 1, Trajectory("t", "g", 0, trajectory(0).prompt, completion))
    assert Journal(tmp_path).committed_steps() == []


def test_a_file_cut_at_any_byte_is_named(tmp_path):
    commit(tmp_path, 1, trajectory(0))
    file = tmp_path / "step-000001.parquet"
    whole = file.read_bytes()
    for length in (*range(0, len(whole) - 1, 97), len(whole) - 1):
        file.write_bytes(whole[:length])
        for read in (Journal(tmp_path).check, lambda: Journal(tmp_path).read(1)):
            with pytest.raises(CheckpointError, match=r"step-000001\.parquet: .*remove the file"):
                read()


def test_a_flipped_byte_in_a_data_page_is_found_when_the_step_is_read(tmp_path):
    commit(tmp_path, 1, trajectory(0), trajectory(1))
    file = tmp_path / "step-000001.parquet"
    whole = file.read_bytes()
    logprobs = parquet.read_metadata(file).row_group(0).column(list(SCHEMA).index("behaviour_logprobs"))
    last = logprobs.data_page_offset + logprobs.total_compressed_size - 1
    last -= logprobs.data_page_offset - (logprobs.dictionary_page_offset or logprobs.data_page_offset)
    file.write_bytes(whole[:last] + bytes([whole[last] ^ 1]) + whole[last + 1 :])
    Journal(tmp_path).check()  # metadata alone
    for read in (Journal(tmp_path).read, Journal(tmp_path).rewards, Journal(tmp_path).rows):
        with pytest.raises(CheckpointError, match=r"step-000001\.parquet.*remove the file"):
            read(1)


def test_no_flipped_byte_ever_changes_what_is_read(tmp_path):
    commit(tmp_path, 1, trajectory(0))
    file = tmp_path / "step-000001.parquet"
    whole, rows = file.read_bytes(), Journal(tmp_path).rows(1)
    for offset in range(0, len(whole), 13):
        file.write_bytes(whole[:offset] + bytes([whole[offset] ^ 8]) + whole[offset + 1 :])
        with suppress(CheckpointError):
            assert Journal(tmp_path).rows(1) == rows


def test_a_file_that_is_not_this_steps_journal_is_named(tmp_path):
    commit(tmp_path, 1, trajectory(0))
    file, journal = tmp_path / "step-000001.parquet", Journal(tmp_path)
    file.rename(tmp_path / "step-000002.parquet")
    with pytest.raises(CheckpointError, match=r"step-000002\.parquet: .*rayrlhf\.step"):
        journal.check()
    parquet.write_table(parquet.read_table(tmp_path / "step-000002.parquet").drop_columns("reward"), file)
    with pytest.raises(CheckpointError, match=r"step-000001\.parquet: .*no column reward"):
        journal.check()
    file.write_bytes(b"reward,step\n" * 9)
    with pytest.raises(CheckpointError, match=r"step-000001\.parquet"):
        journal.check()


def test_a_step_without_a_file_is_named():
    with pytest.raises(CheckpointError, match=r"step-000003\.parquet: no such file"):
        Journal(Path("absent")).rewards(3)


def test_a_sweep_removes_what_a_crash_left_and_nothing_else(folder):
    commit(folder, 1, trajectory(0))
    append(folder, "a", trajectory(0))
    append(folder, "a", trajectory(1), step=2)
    (folder / "step-000002.parquet.partial").write_bytes(b"half")
    Journal(folder).sweep()
    Journal(folder).check()
    assert open_steps(folder) == [2]
    assert Journal(folder).read(1) == by_id(trajectory(0))
    assert Journal(folder).read(2) == by_id(trajectory(1))
    assert [path.name for path in entries(folder)] == ["open", "step-000001.parquet"]


def test_rows_have_the_columns_that_are_asked_for(folder):
    commit(folder, 1, trajectory(0), trajectory(1))
    wanted = ["response", "policy_versions"]
    whole = Journal(folder).rows(1)
    assert Journal(folder).rows(1, wanted) == [{name: row[name] for name in wanted} for row in whole]


def test_rejected_groups_are_remembered(folder):
    assert Journal(folder).rejected() == set()
    Journal(folder).reject("g1", "p1", "too long\n")
    Journal(folder).reject("g2", "p1", "“quoted”")
    assert Journal(folder).rejected() == {"g1", "g2"}
    assert Journal(folder).rejections() == [Rejection("g1", "p1", "too long\n"), Rejection("g2", "p1", "“quoted”")]


def test_a_rejection_torn_at_any_byte_is_none_and_the_next_one_is_whole(folder):
    journal, file = Journal(folder), folder / "rejected.jsonl"
    journal.reject("g1", "p1", "cause")
    journal.reject("g2", "p1", "cause")
    whole = file.read_bytes()
    for length in range(whole.index(b"\n") + 1, len(whole)):
        file.write_bytes(whole[:length])
        assert journal.rejected() == {"g1"}
        Journal(folder).reject("g3", "p2", "cause")  # the process after the one that was torn away
        assert journal.rejected() == {"g1", "g3"}
    file.write_bytes(b"{}\n" + whole)
    with pytest.raises(CheckpointError, match=r"rejected\.jsonl, line 1"):
        journal.check()


def test_infinite_and_undefined_numbers_survive(tmp_path):
    completion = Completion((1, 2, 3), (-math.inf, math.nan, -0.0), "length", (VersionSpan(0, 3, 0),))
    odd = Trajectory("t", "g", 0, trajectory(0).prompt, completion)
    append(tmp_path, "a", odd)
    assert repr(read_open(tmp_path, 1)) == repr(by_id(odd))
    commit(tmp_path, 1, odd)
    assert repr(Journal(tmp_path).read(1)) == repr(by_id(odd))


def test_the_page_lists_every_column_with_its_type_and_meaning():
    page = PAGE.read_text(encoding="utf-8").replace("&lt;", "<").replace("&gt;", ">")
    rows = [line for line in page.splitlines() if "| string |" in line or "int32" in line or "double" in line]
    assert rows == [f"| `{name}` | {type_} | {meaning} |" for name, (type_, meaning) in SCHEMA.items()]
    types = {"string": pyarrow.string(), "list<int32>": pyarrow.list_(pyarrow.int32())}
    assert {arrow_schema().field(n).type == types[t] for n, (t, _) in SCHEMA.items() if t in types} == {True}


def test_the_pages_snippet_writes_comparisons_that_the_reward_stage_reads(tmp_path, monkeypatch):
    commit(tmp_path / "runs" / "run" / "trajectories", 1, *map(trajectory, range(3)))
    monkeypatch.chdir(tmp_path)
    snippet = PAGE.read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
    exec(snippet, {})
    (ranking,) = read_rankings("comparisons.jsonl")
    assert ranking.responses == ("text 2", "text 0")
