import pytest

from rayrlhf.jobs.doctor import storage
from rayrlhf.jobs.doctor.findings import Level
from rayrlhf.jobs.doctor.machine import GIB, Space
from rayrlhf.jobs.doctor.party import HERE, ThisMachine
from tests.unit.jobs.doctor.findings import level_of, reds


def examine(parent):
    return storage.examine(ThisMachine(), [HERE], str(parent), f"{parent}/.doctor-test")


def test_a_folder_that_works_is_green_and_is_left_as_it_was(tmp_path):
    parent = tmp_path / "new" / "runs"
    kept = storage.oldest_ancestor(str(parent))
    assert level_of(examine(parent), "run directory") is Level.GREEN
    assert storage.seen_from(f"{parent}/.doctor-test") == ["node-0"]
    storage.clear(f"{parent}/.doctor-test", kept)
    assert list(tmp_path.iterdir()) == []


def test_what_is_in_the_run_directory_stays(tmp_path):
    (tmp_path / "ppo").mkdir()
    examine(tmp_path)
    storage.clear(f"{tmp_path}/.doctor-test", storage.oldest_ancestor(str(tmp_path)))
    assert [path.name for path in tmp_path.iterdir()] == ["ppo"]


def test_a_run_directory_that_cannot_be_written_is_red(tmp_path):
    (tmp_path / "runs").write_text("a file")
    for parent in (tmp_path / "runs", "/sys/runs"):
        found = examine(parent)
        assert level_of(found, "run directory") is Level.RED
        assert "run.directory" in reds(found)[0]


def test_a_store_works_like_a_folder(s3_folder):
    assert reds(examine(s3_folder)) == []
    storage.clear(f"{s3_folder}/.doctor-test", storage.oldest_ancestor(str(s3_folder)))
    assert storage.seen_from(str(s3_folder)) == []


def test_a_store_without_the_bucket_is_red(s3_server, monkeypatch):
    monkeypatch.setattr("rayrlhf.data.stores.RETRY_WAITS_S", ())
    assert "no bucket" in reds(examine("s3://nobody-made-this/runs"))[0]


def test_nodes_that_do_not_see_each_other_s_files_are_red():
    marks = {"a": "node-0", "b": "node-1"}
    assert reds(storage.judge_sharing("runs", marks, {node: ["node-0", "node-1"] for node in marks})) == []
    told = storage.judge_sharing("runs", marks, {"a": ["node-0"], "b": ["node-1"]})
    assert [(f.nodes, f.found) for f in told] == [
        (("a",), "runs: does not see what b wrote"),
        (("b",), "runs: does not see what a wrote"),
    ]


@pytest.mark.parametrize(("free", "level"), [(1, Level.RED), (5, Level.YELLOW), (50, Level.GREEN)])
def test_a_disk_that_is_nearly_full_is_seen(free, level):
    facts = {"a": storage.StorageFacts(space=Space(100 * GIB, free * GIB))}
    assert level_of(storage.judge_storage("runs", facts), "disk") is level
