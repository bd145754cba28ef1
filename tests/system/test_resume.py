"""A run that was asked to end, killed and interrupted, and resumed each time, ends as an undisturbed one does."""

import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from rayrlhf.cli import main
from rayrlhf.stages.run_directory import to_toml
from tests.system import chaos, jobs

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.timeout(1500), pytest.mark.long]
STEPS = 10
COMPARED = ("reward/", "policy/", "kl/", "advantage/", "rollout/", "drift/")


class Run:
    """The command, started as often as needed in a directory of its own."""

    def __init__(self, folder, policy):
        folder.mkdir()
        self.folder = folder
        self.root = folder / "runs" / "run"
        self.config = folder / "job.toml"
        self.config.write_text(to_toml(jobs.make(folder, policy, run={"steps": STEPS}, checkpoint={"every_steps": 5})))
        self.mark = uuid.uuid4().hex

    def launch(self, send=None, after_rows=STEPS):
        """Run to the end, or send a signal once so many rows are there; returns the exit code."""
        environment = {**os.environ, chaos.MARK: self.mark}
        command = [str(Path(sys.executable).with_name("rayrlhf")), "rl", str(self.config)]
        with (self.folder / "log.txt").open("ab") as log:
            process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
            deadline = time.monotonic() + 300
            while send and self.rows() < after_rows and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.02)
            if send:
                process.send_signal(send)
            return process.wait(300)

    def rows(self):
        path = self.root / "metrics.jsonl"
        return path.read_text().count("\n") if path.is_file() else 0

    def log(self):
        return (self.folder / "log.txt").read_text()

    def saved(self):
        return sorted(path.parent.name for path in self.root.glob("checkpoints/*/manifest.json"))


@pytest.fixture(scope="module")
def runs(tmp_path_factory, tiny_policy):
    folder = tmp_path_factory.mktemp("resume")
    straight, disturbed = Run(folder / "straight", tiny_policy), Run(folder / "disturbed", tiny_policy)
    assert straight.launch() == 0, straight.log()[-3000:]
    return straight, disturbed


def test_terminated_killed_and_interrupted(runs):
    straight, disturbed = runs
    for sent, after_rows, code in [(signal.SIGTERM, 2, 143), (signal.SIGKILL, 5, -9), (signal.SIGINT, 7, 130)]:
        assert disturbed.launch(sent, after_rows) == code, disturbed.log()[-3000:]
        assert chaos.survivors(disturbed.mark) == []
        if sent != signal.SIGKILL:
            assert f"interrupted by {sent.name}: step" in disturbed.log()
            assert "is saved, go on with --resume auto" in disturbed.log()
            assert "Traceback" not in disturbed.log()
            assert int(disturbed.saved()[-1].removeprefix("step-")) >= after_rows
    assert disturbed.launch() == 0, disturbed.log()[-3000:]
    assert chaos.survivors(disturbed.mark) == []

    rows = [jobs.metrics(run.folder) for run in runs]
    assert [row["step"] for row in rows[1]] == list(range(1, STEPS + 1))
    same = [
        {k: v for k, v in row.items() if k.startswith(COMPARED) and not k.endswith("tokens_per_s")} for row in rows[0]
    ]
    assert len(same[0]) > 15
    for wanted, found in zip(same, rows[1], strict=True):
        assert {k: found[k] for k in wanted} == wanted
    weights = [load_file(run.root / "model" / "model.safetensors") for run in runs]
    assert all((weights[1][name] == value).all() for name, value in weights[0].items())
    assert straight.saved() == ["step-000005", "step-000010"]
    assert disturbed.saved()[-1] == "step-000010"


def test_the_policy_of_any_checkpoint_can_be_exported(runs, tmp_path, capsys):
    """The last one is the run's own export; an earlier one is another model."""
    straight, _ = runs
    assert main(["export", str(straight.root), "--to", str(tmp_path / "last")]) == 0
    assert main(["export", str(straight.root / "checkpoints" / "step-000005")]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(straight.root / "model-step-000005")
    own, last, fifth = (
        AutoModelForCausalLM.from_pretrained(folder).state_dict()
        for folder in (straight.root / "model", tmp_path / "last", straight.root / "model-step-000005")
    )
    assert all(torch.equal(own[name], last[name]) for name in own)
    assert not all(torch.equal(own[name], fifth[name]) for name in own)
    assert main(["export", str(tmp_path)]) == 2
    assert "not a complete checkpoint" in capsys.readouterr().err
