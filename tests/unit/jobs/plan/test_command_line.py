"""The command: stable JSON, overrides that can be pasted, and wrong input as exit code 2."""

import json
import tomllib

import pytest

from rayrlhf.cli import main
from rayrlhf.jobs.plan.gpus import GPUS
from tests.system import jobs

LARGER = ("rollout.prompts_per_step=256", "rollout.max_tokens=200")
ON_H100 = ("--json", "--gpu", "h100")


@pytest.fixture
def config(tmp_path, tiny_policy):
    from rayrlhf.stages.run_directory import to_toml

    file = tmp_path / "job.toml"
    file.write_text(to_toml(jobs.make(tmp_path, tiny_policy)))
    return file


@pytest.fixture
def plan(config, tmp_path, capsys):
    def call(*arguments):
        code = main(["plan", str(config), *arguments, "--calibration", str(tmp_path / "none.json")])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def test_json_is_stable_and_complete(plan):
    code, out, _ = plan("--json")
    assert code == 0
    assert plan("--json")[1] == out
    found = json.loads(out)
    assert sorted(found) == [
        "alternatives", "cache_tokens", "fits", "geometry", "gpus", "machine", "memory", "phases_s", "problems",
        "run_s", "step_s",
    ]  # fmt: skip
    assert sorted(found["phases_s"]) == ["between", "commit", "learn", "rollout", "score", "weight_sync"]
    assert [row["role"] for row in found["memory"]] == ["rollout", "learner", "reward"]
    assert found["geometry"]["trajectories"] == 16
    assert found["step_s"] == pytest.approx(sum(found["phases_s"].values()), abs=1e-3)


@pytest.mark.parametrize("gpu", sorted(GPUS))
def test_hardware_that_is_not_here_is_an_estimate_with_its_assumptions(plan, gpu):
    code, out, err = plan("--json", "--gpu", gpu, "--nodes", "2")
    machine = json.loads(out)["machine"]
    assert (code, machine["is_estimate"], machine["nodes"]) == (0, True, 2)
    assert "data sheet" in machine["assumptions"][0]
    assert "learner.gpus=1 rollout.gpus=1" in err
    code, out, _ = plan("--gpu", gpu)
    assert "estimate, nothing of it was measured" in out


def test_an_uncalibrated_cpu_is_an_estimate(plan):
    _, out, _ = plan()
    assert "not calibrated" in out
    assert "(estimate)" in out


def test_alternatives_can_be_pasted(plan):
    code, out, _ = plan(*LARGER, *ON_H100)
    others = json.loads(out)["alternatives"]
    assert code == 0
    assert others
    before = json.loads(out)["step_s"]
    for other in others:
        assert other["step_s"] < before
        keys = [line.partition("=")[0] for line in other["overrides"]]
        assert len(keys) == len(set(keys))
        assert all("value" in tomllib.loads(f"value = {line.partition('=')[2]}") for line in other["overrides"])
    again = plan(*LARGER, "learner.gpus=1", "rollout.gpus=1", *others[0]["overrides"], *ON_H100)
    assert json.loads(again[1])["step_s"] == pytest.approx(others[0]["step_s"])


def test_what_does_not_fit_is_said_with_the_key(plan):
    code, out, _ = plan("--gpu", "l4", "--gpus-per-node", "1")
    assert code == 0
    assert "does not fit: 2 GPUs are needed, 1 are there: lower rollout.workers or learner.ranks" in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--nodes", "0"], "--nodes 0"),
        (["--gpus-per-node", "-1"], "--gpus-per-node -1"),
        (["--answer-tokens", "0"], "--answer-tokens 0"),
        (["--calibrate", "--gpu", "h100"], "leave --gpu and --nodes out"),
        (["learner.gpus=1", "rollout.gpus=1"], "say for which GPUs with --gpu"),
        (["rollout.worker=2"], "did you mean 'rollout.workers'"),
        (["model.path=/nowhere/at/all"], "no such directory"),
    ],
)
def test_wrong_input_is_exit_code_2_without_a_traceback(plan, arguments, said):
    code, out, err = plan(*[a for a in arguments if "=" in a], *[a for a in arguments if "=" not in a])
    assert code == 2
    assert said in err
    assert "Traceback" not in err
    assert out == ""


def test_unknown_hardware_is_refused_with_what_is_known(config, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["plan", str(config), "--gpu", "h1000"])
    assert ended.value.code == 2
    assert "h100" in capsys.readouterr().err


def test_other_jobs_are_refused_by_name(capsys):
    assert main(["plan", "examples/sft.toml"]) == 2
    assert "a job for `rayrlhf sft`" in capsys.readouterr().err


def test_a_damaged_calibration_is_wrong_input(config, tmp_path, capsys):
    file = tmp_path / "calibration.json"
    for text in ("{", "[]", '{"version": 99}'):
        file.write_text(text)
        assert main(["plan", str(config), "--calibration", str(file)]) == 2
        assert str(file) in capsys.readouterr().err
