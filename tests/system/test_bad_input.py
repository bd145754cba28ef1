"""Wrong input: exit code 2, one message that says what and where, no traceback, nothing started or written."""

import json

import pytest
import ray

from rayrlhf.cli import main
from rayrlhf.loop.checkpoint import CheckpointStore
from rayrlhf.loop.progress import Progress
from rayrlhf.stages.rl import prepare
from rayrlhf.stages.run_directory import to_toml
from tests import tiny
from tests.system import jobs


@pytest.fixture
def attempt(tmp_path, tiny_policy, capsys):
    def run(*overrides):
        config = tmp_path / "job.toml"
        config.write_text(to_toml(jobs.make(tmp_path, tiny_policy)))
        before = sorted(tmp_path.rglob("*"))
        code = main(["rl", str(config), *overrides])
        assert sorted(tmp_path.rglob("*")) == before
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return code, captured.err

    return run


def check(result, *parts):
    code, error = result
    assert code == 2
    assert all(part in error for part in parts), error
    assert not ray.is_initialized() or "need" in error


def test_unknown_key(attempt):
    check(attempt("rollout.max_token=3"), "unknown key 'rollout.max_token'", "rollout.max_tokens")


def test_wrong_type(attempt):
    check(attempt("run.steps=many"), "run.steps = 'many'")


def test_missing_data_file(attempt, tmp_path):
    check(attempt(f"data.prompts={tmp_path}/none.jsonl"), "none.jsonl: no such data file")


def test_malformed_line(attempt, tmp_path):
    bad = tmp_path / "bad.jsonl"
    bad.write_text(json.dumps({"messages": [{"role": "user", "content": "x"}]}) + "\n{oops\n")
    check(attempt(f"data.prompts={bad}"), "bad.jsonl, line 2: not JSON")


def test_empty_data(attempt, tmp_path):
    (tmp_path / "empty.jsonl").touch()
    check(attempt(f"data.prompts={tmp_path}/empty.jsonl"), "empty.jsonl: no rows")


def test_model_without_a_chat_template(attempt, tmp_path):
    folder = tiny.write_policy(tmp_path / "bare")
    tiny.tokenizer(template=None).save_pretrained(folder)
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    check(attempt(f"model.path={folder}"), "no chat template")


def test_model_that_is_not_there(attempt, tmp_path):
    check(attempt(f"model.path={tmp_path}/nowhere"), "nowhere")


def test_model_without_weights(attempt, tmp_path):
    folder = tiny.write_policy(tmp_path / "empty")
    (folder / "model.safetensors").unlink()
    check(attempt(f"model.path={folder}"), "no safetensors weights")


def test_unknown_algorithm(attempt):
    check(attempt("algorithm.kind=dppo"), "algorithm.kind = 'dppo': expected one of", "'ppo'")


@pytest.mark.parametrize("key", ["reward.model", "critic.model"])
def test_reward_model_and_critic_without_a_head(key, tiny_policy, tiny_reward_model, tmp_path, capsys):
    sections = {"algorithm": {"kind": "ppo"}, "reward": {"function": None, "model": str(tiny_reward_model)}}
    config = tmp_path / "job.toml"
    config.write_text(to_toml(jobs.make(tmp_path, tiny_policy, **sections)))
    assert main(["rl", str(config), f"{key}={tiny_policy}"]) == 2
    assert f"{key} needs a sequence-classification model" in capsys.readouterr().err
    assert not ray.is_initialized()


@pytest.mark.parametrize(("command", "data"), [("sft", "demonstrations"), ("reward", "comparisons")])
def test_supervised_stages_name_the_malformed_line(command, data, tiny_policy, tmp_path, capsys):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"messages": "oops", "chosen": "a", "rejected": "b"}\n')
    config = tmp_path / "job.toml"
    config.write_text(f'name = "x"\n[model]\npath = "{tiny_policy}"\n[data]\n{data} = "{rows}"\n')
    assert main([command, str(config)]) == 2
    assert "rows.jsonl, line 1: `messages` must be a non-empty list" in capsys.readouterr().err
    assert not ray.is_initialized()


def test_more_cpus_than_there_are(attempt):
    check(attempt("learner.cpus=1000.0"), "need 1000", "have", "learner.cpus")
    ray.shutdown()


def test_more_gpus_than_there_are(attempt):
    check(attempt("rollout.gpus=1", "learner.gpus=1"), "need", "2 GPUs", "have", "0 GPUs", ".gpus")
    ray.shutdown()


def test_a_dry_run_prints_sizes_and_starts_nothing(attempt, capsys):
    code, _ = attempt("--dry-run")
    assert code == 0
    assert not ray.is_initialized()


def test_going_back_to_an_older_checkpoint_would_mix_two_histories(tiny_policy, tmp_path, capsys):
    job = jobs.make(tmp_path, tiny_policy)
    config = tmp_path / "job.toml"
    config.write_text(to_toml(job))
    prompts = prepare(job, "never").prompts
    store = CheckpointStore(tmp_path / "runs" / "run" / "checkpoints", 2, job.model_dump(mode="json"), prompts.digest)
    older, newer = (store.begin(step) for step in (1, 2))
    store.complete(older, Progress(1, 1, 0.0), {})
    store.complete(newer, Progress(2, 2, 0.0), {})
    assert main(["rl", str(config), "--resume", str(older)]) == 2
    assert "has gone on to step-000002" in capsys.readouterr().err


def test_a_checkpoint_that_is_not_there(attempt, tmp_path):
    check(attempt("--resume", str(tmp_path / "nothing")), "not a complete checkpoint")
