import pytest

from rayrlhf.errors import CheckpointError
from rayrlhf.loop.checkpoint import CheckpointStore, load_progress
from rayrlhf.loop.progress import Progress


def write(folder):
    (folder / "policy").mkdir()
    (folder / "policy" / "shard-0.safetensors").write_bytes(b"weights")


@pytest.fixture
def store(tmp_path):
    return CheckpointStore(tmp_path, 2, "digest")


def test_what_was_saved_is_found_again(store):
    folder = store.save(Progress(3, 3, 0.25), write)
    assert store.newest() == folder
    assert load_progress(folder, "digest") == Progress(3, 3, 0.25)


def test_a_folder_without_a_manifest_is_no_checkpoint(store):
    complete = store.save(Progress(1, 1, 0.0), write)

    def torn(folder):
        write(folder)
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        store.save(Progress(2, 2, 0.0), torn)
    assert store.complete() == [complete]
    with pytest.raises(CheckpointError, match="not a complete checkpoint"):
        load_progress(complete.parent / "step-000002", "digest")


@pytest.mark.parametrize("damage", [b"WEIGHTS", b"", None])
def test_a_damaged_or_missing_file_is_named(store, damage):
    folder = store.save(Progress(1, 1, 0.0), write)
    shard = folder / "policy" / "shard-0.safetensors"
    shard.unlink() if damage is None else shard.write_bytes(damage)
    with pytest.raises(CheckpointError, match=r"shard-0\.safetensors"):
        load_progress(folder, "digest")


def test_a_damaged_manifest_is_named(store):
    folder = store.save(Progress(1, 1, 0.0), write)
    (folder / "manifest.json").write_text('{"step": 1')
    with pytest.raises(CheckpointError, match=r"manifest\.json: damaged"):
        load_progress(folder, "digest")


def test_another_config_is_refused(store):
    folder = store.save(Progress(1, 1, 0.0), write)
    with pytest.raises(CheckpointError, match="the config is not the one"):
        load_progress(folder, "other")


def test_the_newest_two_are_kept(store):
    for step in range(1, 5):
        store.save(Progress(step, step, 0.0), write)
    assert [folder.name for folder in store.complete()] == ["step-000003", "step-000004"]
