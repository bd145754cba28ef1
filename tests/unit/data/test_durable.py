import hashlib
import os
import uuid
from contextlib import suppress
from pathlib import Path

import pytest

from rayrlhf.data import durable
from rayrlhf.data.durable import (
    append_durably,
    as_path,
    digest_file,
    entries,
    exists,
    is_file,
    is_local,
    local_copy,
    local_folder,
    make_folder,
    move_folder,
    read_bytes,
    read_folder,
    read_tail,
    remove_file,
    remove_tree,
    replaced_folder,
    write_durably,
)


@pytest.fixture(params=["local", "memory", "s3"])
def folder(request, tmp_path):
    if request.param == "s3":
        return request.getfixturevalue("s3_folder")
    return tmp_path if request.param == "local" else as_path(f"memory://{uuid.uuid4().hex}")


def test_a_url_is_remote_and_anything_else_is_a_local_path():
    assert as_path("runs/a b") == Path("runs/a b")
    assert as_path("file:///runs/a") == as_path("local:///runs/a") == Path("/runs/a")
    remote = as_path("memory://runs/a")
    assert not is_local(remote)
    assert is_local(as_path("runs"))
    assert str(remote / "b") == "memory://runs/a/b"
    with pytest.raises(ValueError, match="nonsense"):
        as_path("nonsense://runs/a")


def test_a_write_makes_parents_replaces_and_leaves_nothing_beside(folder):
    write_durably(folder / "a" / "b" / "file", b"old")
    write_durably(folder / "a" / "b" / "file", b"new")
    assert (folder / "a" / "b" / "file").read_bytes() == b"new"
    assert [path.name for path in entries(folder / "a" / "b")] == ["file"]


def test_a_write_interrupted_before_the_rename_leaves_the_old_content(tmp_path, monkeypatch):
    write_durably(tmp_path / "file", b"old")

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            write_durably(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"old"
    write_durably(tmp_path / "file", b"newest")
    assert [path.read_bytes() for path in entries(tmp_path)] == [b"newest"]


def test_content_is_synced_before_the_rename_and_the_folder_after_it(tmp_path, monkeypatch):
    events = []
    fsync, replace = os.fsync, os.replace

    def record_sync(descriptor):
        events.append(("sync", Path(os.readlink(f"/proc/self/fd/{descriptor}"))))
        fsync(descriptor)

    def record_rename(source, target):
        events.append(("rename", Path(target)))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", record_sync)
    monkeypatch.setattr(os, "replace", record_rename)
    write_durably(tmp_path / "new" / "file", b"x")
    assert events == [
        ("sync", tmp_path),
        ("sync", tmp_path / "new" / "file.partial"),
        ("rename", tmp_path / "new" / "file"),
        ("sync", tmp_path / "new"),
    ]


def test_an_append_syncs_the_folder_only_when_the_file_is_new(tmp_path, monkeypatch):
    folders = []
    sync_folder = durable.sync_folder
    monkeypatch.setattr(durable, "sync_folder", lambda folder: (folders.append(folder), sync_folder(folder)))
    append_durably(tmp_path / "file", b"a")
    append_durably(tmp_path / "file", b"b")
    assert (tmp_path / "file").read_bytes() == b"ab"
    assert folders == [tmp_path]


def test_an_operating_system_error_passes_through(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match="file"):
        write_durably(tmp_path / "file" / "below", b"x")
    with pytest.raises(OSError, match="file"):
        append_durably(tmp_path / "file" / "below", b"x")


def test_entries_are_in_order_and_an_absent_folder_has_none(folder):
    for name in ("b", "a", "c/d"):
        write_durably(folder / name, b"x")
    assert [path.name for path in entries(folder)] == ["a", "b", "c"]
    assert entries(folder / "absent") == []


def test_a_removed_tree_is_gone_and_an_absent_one_stays_absent(folder):
    for name in ("keep", "tree/a", "tree/below/b"):
        write_durably(folder / name, b"x")
    remove_tree(folder / "tree")
    remove_tree(folder / "tree")
    assert [path.name for path in entries(folder)] == ["keep"]


def test_a_moved_folder_takes_the_place_of_what_had_its_name(folder):
    write_durably(folder / "old" / "deep" / "file", b"1")
    write_durably(folder / "new" / "other", b"2")
    move_folder(folder / "old", folder / "new")
    assert read_bytes(folder / "new" / "deep" / "file") == b"1"
    assert not exists(folder / "new" / "other")
    assert not exists(folder / "old")


def test_a_digest_is_of_the_whole_file_in_pieces(folder, monkeypatch):
    monkeypatch.setattr(durable, "_CHUNK_BYTES", 7)
    write_durably(folder / "file", bytes(range(100)))
    assert digest_file(folder / "file") == (100, hashlib.sha256(bytes(range(100))).hexdigest())


def test_a_local_copy_is_the_file_or_folder_itself_or_a_passing_download(folder):
    write_durably(folder / "tree" / "below" / "file.bin", b"x")
    for path, file in ((folder / "tree", "below/file.bin"), (folder / "tree" / "below" / "file.bin", "")):
        with local_copy(path) as copy:
            assert is_local(copy)
            assert copy.name == path.name
            assert (copy / file if file else copy).read_bytes() == b"x"
        assert copy.exists() == is_local(folder)
    with pytest.raises(OSError, match="absent"), local_copy(folder / "absent") as copy:
        copy.read_bytes()


def test_what_is_written_into_a_local_folder_is_in_the_folder_after_the_context_and_not_after_an_error(folder):
    make_folder(folder / "tree")
    with local_folder(folder / "tree") as local:
        (local / "below").mkdir()
        (local / "below" / "file").write_bytes(b"x")
    assert read_bytes(folder / "tree" / "below" / "file") == b"x"


def test_a_replaced_folder_has_the_new_files_only_and_after_an_error_the_old_ones(folder):
    write_durably(folder / "model" / "old", b"x")
    with suppress(KeyError), replaced_folder(folder / "model", last="config") as new:
        (new / "half").write_bytes(b"x")
        raise KeyError
    assert [path.name for path in entries(folder / "model")] == ["old"]
    for _ in range(2):
        with replaced_folder(folder / "model", last="config") as new:
            (new / "config").write_bytes(b"c")
            (new / "weights").write_bytes(b"w")
    assert [path.name for path in entries(folder)] == ["model"]
    assert {path.name: read_bytes(path) for path in entries(folder / "model")} == {"config": b"c", "weights": b"w"}


def test_an_upload_goes_without_the_file_that_makes_the_folder_whole_until_all_else_is_there(monkeypatch):
    folder, order = as_path(f"memory://{uuid.uuid4().hex}"), []
    put = durable._put_file
    monkeypatch.setattr(durable, "_put_file", lambda file, fs, name: (order.append(file.name), put(file, fs, name)))
    write_durably(folder / "model" / "config", b"old")
    with replaced_folder(folder / "model", last="config") as new:
        for name in ("a", "config", "z"):
            (new / name).write_bytes(b"x")
    assert order == ["a", "z", "config"]


def test_a_tail_is_the_end_of_a_file_and_all_of_a_short_one(folder):
    write_durably(folder / "file", b"0123456789")
    assert read_tail(folder / "file", 3) == b"789"
    assert read_tail(folder / "file", 99) == b"0123456789"


def test_a_folder_is_read_by_the_suffix_of_its_files_in_order(folder):
    for name in ("b.txt", "a.txt", "c.txt.partial"):
        write_durably(folder / name, name.encode())
    found = read_folder(folder, ".txt")
    assert [(path.name, text) for path, text in found.items()] == [("a.txt", b"a.txt"), ("b.txt", b"b.txt")]
    assert read_folder(folder / "absent", ".txt") == {}


def test_a_removed_file_is_gone_and_an_absent_one_stays_absent(folder):
    write_durably(folder / "file", b"x")
    assert is_file(folder / "file")
    assert exists(folder)
    assert not is_file(folder)
    for _ in range(2):
        remove_file(folder / "file")
        assert not exists(folder / "file")
