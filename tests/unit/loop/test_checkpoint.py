import hashlib
import json

import pytest
from upath import UPath

from rayrlhf.data.durable import exists, read_bytes, write_durably
from rayrlhf.errors import CheckpointError
from rayrlhf.loop.checkpoint import MANIFEST, CheckpointStore, verify
from rayrlhf.loop.progress import Progress
from rayrlhf.role_types import SavedFile

WEIGHTS = b"weights"


@pytest.fixture(params=["local", "memory", "s3"])
def folder(request, tmp_path):
    if request.param == "s3":
        return request.getfixturevalue("s3_folder")
    return tmp_path if request.param == "local" else UPath(f"memory://{tmp_path}")


@pytest.fixture
def store(folder):
    return CheckpointStore(folder, 2, {"seed": 7}, "prompts")


def write(store, step):
    folder = store.begin(step)
    write_durably(folder / "policy" / "shard-0", WEIGHTS)
    return folder, {"policy/shard-0": SavedFile("shard-0", len(WEIGHTS), hashlib.sha256(WEIGHTS).hexdigest())}


def save(store, step):
    folder, files = write(store, step)
    store.complete(folder, Progress(step, step, 0.25), files, ("000004-00000",))
    store.rotate()
    return folder


def test_what_was_saved_is_found_again(store):
    folder = save(store, 3)
    assert store.newest() == folder
    found = verify(folder)
    assert found.progress == Progress(3, 3, 0.25)
    assert (found.config, found.prompts_digest, found.in_flight) == ({"seed": 7}, "prompts", ("000004-00000",))


def test_a_folder_without_a_manifest_is_no_checkpoint_and_the_next_save_clears_it(store):
    complete = save(store, 1)
    torn, _ = write(store, 2)
    (torn / "old-shard").write_bytes(b"x")
    assert store.folders() == [complete]
    with pytest.raises(CheckpointError, match="not a complete checkpoint"):
        verify(torn)
    assert not (save(store, 2) / "old-shard").exists()


@pytest.mark.parametrize("damage", [b"WEIGHTS", b"", None])
@pytest.mark.parametrize("name", ["policy/shard-0", "state.json"])
def test_a_damaged_or_missing_file_is_named(store, name, damage):
    folder = save(store, 1)
    file = folder / name
    file.unlink() if damage is None else file.write_bytes(damage)
    with pytest.raises(CheckpointError, match=f"{file.name}: {'missing' if damage is None else 'not the file'}"):
        verify(folder)


def test_a_damaged_newest_is_set_aside_and_the_one_before_is_used(store):
    older, newest, heard = save(store, 1), save(store, 2), []
    write_durably(newest / "policy" / "shard-0", b"WEIGHTS")
    assert store.newest_whole(heard.append) == older
    assert read_bytes(newest.with_name(f"damaged-{newest.name}") / "policy" / "shard-0") == b"WEIGHTS"
    assert not exists(newest)
    assert "shard-0" in heard[0]


@pytest.mark.parametrize("text", ['{"step": 1', "[]", "{}", '{"step": "x"}', "null"])
def test_a_damaged_manifest_is_named(store, text):
    folder = save(store, 1)
    (folder / MANIFEST).write_text(text)
    with pytest.raises(CheckpointError, match=r"manifest\.json: damaged"):
        verify(folder)


def test_the_newest_two_are_kept_and_older_ones_go_only_when_a_new_one_is_complete(store):
    for step in range(1, 5):
        save(store, step)
    assert [folder.name for folder in store.folders()] == ["step-000003", "step-000004"]
    write(store, 5)
    assert [folder.name for folder in store.folders()] == ["step-000003", "step-000004"]


def test_the_manifest_is_json_that_people_can_read(store):
    manifest = json.loads((save(store, 1) / MANIFEST).read_text())
    assert manifest["step"] == manifest["version"] == 1
    assert manifest["files"]["policy/shard-0"]["bytes"] == len(WEIGHTS)
