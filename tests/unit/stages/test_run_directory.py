import os
import uuid
from pathlib import Path

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from rayrlhf.config.jobs import RLJob
from rayrlhf.config.load import load_job
from rayrlhf.data import stores
from rayrlhf.data.durable import as_path, read_bytes
from rayrlhf.errors import ConfigError
from rayrlhf.stages.run_directory import RunDirectory


@pytest.fixture(params=["local", "remote"])
def root(request, tmp_path):
    return tmp_path / "runs" if request.param == "local" else as_path(f"memory://{uuid.uuid4().hex}/runs")


@pytest.fixture
def job():
    return load_job(RLJob, "examples/grpo.toml")


def test_the_directory_of_a_url_is_below_it(job):
    def of(where):
        return RunDirectory.of(job.model_copy(update={"run": job.run.model_copy(update={"directory": where})}))

    assert str(of("s3://bucket/runs").metrics) == f"s3://bucket/runs/{job.name}/metrics.jsonl"
    assert of("/runs").checkpoints == Path(f"/runs/{job.name}/checkpoints")


def test_the_config_that_is_written_loads_back_from_where_it_is(root, job, capsys):
    directory = RunDirectory(root / job.name)
    directory.require_reachable()
    directory.create(job)
    assert load_job(RLJob, directory.config) == job
    assert ("metrics.jsonl has the same numbers" in capsys.readouterr().out) == (not stores.is_local(root))


def test_what_cannot_be_read_or_written_is_a_wrong_config(root, job, monkeypatch):
    directory = RunDirectory(root / job.name)
    monkeypatch.setattr(stores, "RETRY_WAITS_S", ())
    if stores.is_local(root):
        root.write_bytes(b"a file, not a folder")
    else:
        for method in ("ls", "pipe_file"):
            monkeypatch.setattr(MemoryFileSystem, method, refuse)
        with pytest.raises(ConfigError, match=r"run\.directory cannot be read: memory://.*no route"):
            directory.require_reachable()
    with pytest.raises(ConfigError, match=r"run\.directory cannot be written: "):
        directory.create(job)


def refuse(*args, **kwargs):
    raise OSError(5, "no route")


def test_nothing_is_written_by_a_check(job):
    root = as_path(f"memory://{uuid.uuid4().hex}")
    RunDirectory(root / job.name).require_reachable()
    with pytest.raises(FileNotFoundError):
        read_bytes(root / job.name / "config.toml")


def test_two_processes_do_not_run_in_one_directory(tmp_path, job):
    directory = RunDirectory(tmp_path / job.name)
    for _ in range(2):
        with (
            directory.occupied(job),
            pytest.raises(ConfigError, match=rf"process {os.getpid()} on .* runs here"),
            directory.occupied(job),
        ):
            pass
    assert load_job(RLJob, directory.config) == job


def test_a_directory_that_cannot_be_made_is_a_wrong_config(tmp_path, job):
    (tmp_path / "file").touch()
    with (
        pytest.raises(ConfigError, match=r"run\.directory cannot be written"),
        RunDirectory(tmp_path / "file" / "x").occupied(job),
    ):
        pass
