"""Runs whose directory is a URL, on a real S3 server: killed and resumed, they end as an undisturbed local run does."""

import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path

import pytest
import ray
from transformers import AutoModelForCausalLM

from rayrlhf.cli import main
from rayrlhf.config.jobs import SFTJob
from rayrlhf.config.load import validate_job
from rayrlhf.data.durable import as_path, entries, exists, local_copy, read_bytes, remove_file, remove_tree
from rayrlhf.data.journal import Journal
from rayrlhf.loop.checkpoint import CheckpointStore, verify
from rayrlhf.runtime.faults import Fault
from rayrlhf.stages.run_directory import RunDirectory, to_toml
from rayrlhf.stages.sft import run_sft
from tests import s3
from tests.system import fake_job, faults, jobs
from tests.system.fake_run import FakeRun

ROOT = Path(__file__).parents[2]
STEPS = 6


@pytest.fixture(scope="module")
def store():
    with s3.serving() as server:
        yield server


@pytest.fixture(scope="module", autouse=True)
def cluster(store):
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)  # workers inherit where the store is
    yield
    ray.shutdown()


@pytest.fixture(autouse=True)
def no_local_folder_is_named_after_a_scheme(tmp_path):
    yield
    assert not (ROOT / "s3:").exists()
    assert not list(tmp_path.rglob("s3:"))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A local run: its folder, and the learner's state after every step."""
    folder = tmp_path_factory.mktemp("undisturbed")
    run = fake_job.make(folder, STEPS)
    run.loop.run()
    return folder, run.ask(run.roles.learner, "by_step")[0]


def comparable(rows):
    """Rows without what depends on the machine."""
    machine = ("time/", "memory/", "rollout/tokens_per_s", "training/tokens_per_s")
    return [{name: value for name, value in row.items() if not name.startswith(machine)} for row in rows]


def check(directory, undisturbed):
    """Model, journal, metrics and checkpoints of a finished run."""
    folder, states = undisturbed
    assert read_bytes(directory.model / "state").decode() == states[STEPS]
    journal = faults.check_journal(directory.trajectories, STEPS, 4, 4)
    assert journal.table().equals(Journal(folder / "runs" / "run" / "trajectories").table())
    assert comparable(jobs.rows(directory.metrics)) == comparable(jobs.metrics(folder))
    kept = CheckpointStore(directory.checkpoints, 2, {}).folders()
    assert [path.name for path in kept] == ["step-000004", "step-000006"]
    assert kept == entries(directory.checkpoints)
    assert verify(kept[-1]).progress.step == STEPS
    assert not exists(directory.trajectories / "open")


def test_a_driver_killed_and_resumed_ends_as_the_undisturbed_local_run(tmp_path, store, undisturbed):
    url = f"{store.url}/killed"
    for fault in (Fault("driver", 0, "score", 4, after_s=0.02), None):
        planned = json.dumps([asdict(fault)] if fault else [])
        command = [sys.executable, "-m", "tests.system.fake_job", str(tmp_path), str(STEPS), url]
        done = subprocess.run(
            command, cwd=ROOT, env={**os.environ, "RAYRLHF_FAULTS": planned}, capture_output=True, timeout=120
        )
        assert done.returncode == (-9 if fault else 0), done.stderr.decode()[-2000:]
    directory = RunDirectory(as_path(f"{url}/run"))
    check(directory, undisturbed)
    assert b"secret-of-the-test" not in read_bytes(directory.config) + done.stdout + done.stderr


@pytest.mark.parametrize("role", ["rollout", "learner"])
def test_a_lost_role_goes_on_from_what_the_store_has(tmp_path, store, undisturbed, role):
    method = {"rollout": "generate", "learner": "learn"}[role]
    where = {"steps": STEPS, "phase_timeout_s": 60.0, "directory": f"{store.url}/{role}"}
    run = FakeRun(tmp_path, faults={role: (1, method, "die", 4)}, work_s=0.05, **fake_job.SECTIONS, run=where)
    run.loop.run()
    check(run.directory, undisturbed)
    assert [event["role"] for event in run.events() if event["event"] == "recovered"] == [role]


def test_a_store_that_is_away_for_a_moment_is_waited_for(tmp_path, store, undisturbed):
    run = fake_job.make(tmp_path, STEPS, f"{store.url}/away")

    def break_off():
        while len(jobs.rows(run.directory.metrics)) < 2:
            time.sleep(0.05)
        store.stop()
        time.sleep(2.0)
        store.start()

    breaking = threading.Thread(target=break_off)
    breaking.start()
    run.loop.run()
    breaking.join()
    check(run.directory, undisturbed)


def test_a_bucket_that_is_not_there_is_a_wrong_input_and_is_not_made(tmp_path, store, tiny_policy, capsys):
    config = tmp_path / "job.toml"
    config.write_text(to_toml(jobs.make(tmp_path, tiny_policy)))
    assert main(["rl", str(config), "run.directory=s3://absent/runs"]) == 2
    assert "s3://absent/runs/run: there is no bucket 'absent'" in capsys.readouterr().err
    assert main(["rl", str(config), f"run.directory={store.url}", f"--resume={store.url}/nothing"]) == 2
    assert f"{store.url}/nothing: not a complete checkpoint" in capsys.readouterr().err
    assert main(["rl", str(config), "--resume=nonsense://x"]) == 2
    assert "--resume nonsense://x: Unsupported filesystem" in capsys.readouterr().err
    assert not exists(as_path("s3://absent"))


def sft_job(folder, policy, directory):
    rows = [{"messages": [{"role": "user", "content": f"{i}?"}], "response": f"{i} yes"} for i in range(8)]
    data = folder / "data.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    values = {
        "name": "sft",
        "model": {"path": str(policy)},
        "data": {"demonstrations": str(data), "held_out": str(data), "max_sequence_tokens": 64},
        "learner": {"ranks": 2, "cpus": 0.5, "threads": 1, "micro_batch_tokens": 512, "learning_rate": 1e-2},
        "checkpoint": {"every_steps": 2},
        "run": {"directory": directory, "epochs": 6, "batch_rows": 8},
    }
    return validate_job(SFTJob, values)


def test_sft_in_a_store_exports_a_model_and_goes_on_where_it_was_cut_off(tmp_path, store, tiny_policy):
    job = sft_job(tmp_path, tiny_policy, store.url)
    whole = run_sft(job)
    directory = whole.directory
    rows, weights = jobs.rows(directory.metrics), read_bytes(directory.model / "model.safetensors")
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert [path.name for path in entries(directory.checkpoints)] == ["step-000002", "step-000004"]
    with local_copy(directory.model) as folder:
        AutoModelForCausalLM.from_pretrained(folder)

    remove_file(directory.result)
    remove_tree(directory.model)
    again = run_sft(job, str(directory.checkpoints / "step-000004"))
    assert again.metrics == whole.metrics
    assert comparable(jobs.rows(directory.metrics)) == comparable(rows)
    assert read_bytes(directory.model / "model.safetensors") == weights
