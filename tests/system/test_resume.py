"""A run killed with SIGKILL and resumed ends with bitwise the weights of an undisturbed one."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from safetensors.torch import load_file

from rayrlhf.stages.run_directory import to_toml
from tests.system import jobs

ROOT = Path(__file__).parents[2]


def start(folder, job):
    config = folder / "job.toml"
    config.write_text(to_toml(job))
    log = (folder / "log.txt").open("ab")
    command = [str(Path(sys.executable).with_name("rayrlhf")), "rl", str(config)]
    return subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)


def finish(process, folder):
    assert process.wait(400) == 0, (folder / "log.txt").read_text()[-3000:]


def test_killed_after_its_third_checkpoint_and_resumed(tmp_path, tiny_policy):
    folders = {name: tmp_path / name for name in ("straight", "killed")}
    for folder in folders.values():
        folder.mkdir()
    made = {name: jobs.make(folder, tiny_policy, run={"steps": 6}) for name, folder in folders.items()}

    finish(start(folders["straight"], made["straight"]), folders["straight"])

    process = start(folders["killed"], made["killed"])
    third = folders["killed"] / "runs" / "run" / "checkpoints" / "step-000003" / "manifest.json"
    deadline = time.monotonic() + 300
    while not third.exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert third.exists()
    finish(start(folders["killed"], made["killed"]), folders["killed"])

    rows = {name: jobs.metrics(folder) for name, folder in folders.items()}
    assert [row["step"] for row in rows["killed"]] == [1, 2, 3, 4, 5, 6]
    same = ("reward/mean", "policy/loss", "policy/gradient_norm", "rollout/response_tokens")
    assert [[r[k] for k in same] for r in rows["killed"]] == [[r[k] for k in same] for r in rows["straight"]]
    weights = {n: load_file(f / "runs" / "run" / "model" / "model.safetensors") for n, f in folders.items()}
    assert all((weights["killed"][k] == v).all() for k, v in weights["straight"].items())
