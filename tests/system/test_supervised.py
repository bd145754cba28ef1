"""SFT and reward modelling on Ray Train, and what they export: plain transformers and vLLM load it."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

import psutil
import pytest
import ray
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from rayrlhf.config.jobs import RewardJob, SFTJob
from rayrlhf.config.load import validate_job
from rayrlhf.data.prompts import render_prompts
from rayrlhf.data.rows import PromptRow
from rayrlhf.errors import CheckpointError
from rayrlhf.rewards.model import ModelReward
from rayrlhf.rewards.requests import RewardRequest
from rayrlhf.stages.generate import AnswerConfig, answer
from rayrlhf.stages.reward_model import run_reward
from rayrlhf.stages.run_directory import to_toml
from rayrlhf.stages.sft import run_sft
from tests.system import chaos

LEARNER = {"ranks": 2, "cpus": 0.5, "threads": 1, "zero_stage": 2, "micro_batch_tokens": 512}


def user(text):
    return [{"role": "user", "content": text}]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def ranked(rng):
    """Answers with more a's are better; half of the rows are pairs, half rankings of three with a tie."""
    answers = ["".join(rng.choice("bcdefg") for _ in range(8)) for _ in range(3)]
    best = answers[0][:4] + "aaaa"
    question = user(rng.choice("xyz"))
    if rng.random() < 0.5:
        return {"messages": question, "chosen": best, "rejected": answers[1]}
    return {"messages": question, "responses": [answers[1], best, answers[2]], "ranks": [2, 1, 2]}


@pytest.fixture(scope="module", autouse=True)
def cluster():
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def sft_job(folder, policy):
    rows = [{"messages": user(f"{i}?"), "response": f"{i} yes"} for i in range(16)]
    data = write(folder / "data.jsonl", rows)
    values = {
        "name": "sft",
        "model": {"path": str(policy)},
        "data": {"demonstrations": data, "held_out": data, "max_sequence_tokens": 64},
        "learner": {**LEARNER, "learning_rate": 1e-2, "max_gradient_norm": 5.0},
        "checkpoint": {"every_steps": 5},
        "run": {"directory": str(folder), "epochs": 20, "batch_rows": 8},
    }
    return validate_job(SFTJob, values)


def reward_job(folder, policy):
    rng = random.Random(0)
    values = {
        "name": "reward",
        "model": {"path": str(policy)},
        "data": {
            "comparisons": write(folder / "train.jsonl", [ranked(rng) for _ in range(64)]),
            "held_out": write(folder / "held_out.jsonl", [ranked(rng) for _ in range(32)]),
            "max_sequence_tokens": 64,
        },
        "learner": {**LEARNER, "learning_rate": 3e-3},
        "checkpoint": {"every_steps": 5},
        "run": {"directory": str(folder), "epochs": 4, "batch_rows": 8},
    }
    return validate_job(RewardJob, values)


def elsewhere(job, folder):
    """The same job with its run in another folder."""
    return job.model_copy(update={"run": job.run.model_copy(update={"directory": str(folder)})})


@pytest.fixture(scope="module")
def sft(tmp_path_factory, tiny_policy):
    folder = tmp_path_factory.mktemp("sft")
    return folder / "sft", run_sft(sft_job(folder, tiny_policy))


@pytest.fixture(scope="module")
def reward(tmp_path_factory, tiny_policy):
    folder = tmp_path_factory.mktemp("reward")
    return folder / "reward", run_reward(reward_job(folder, tiny_policy))


def test_sft_learns_its_demonstrations_and_says_so(sft):
    folder, result = sft
    losses = [json.loads(line)["sft/loss_nats"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert len(losses) == 40
    assert losses[0] > 4
    assert losses[-1] < 0.5
    assert result.metrics["held_out/loss_nats"] == pytest.approx(losses[-1], abs=0.3)


def test_plain_transformers_loads_the_policy_and_answers_as_it_was_shown(sft):
    model = AutoModelForCausalLM.from_pretrained(sft[0] / "model")
    tokenizer = AutoTokenizer.from_pretrained(sft[0] / "model")
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
    ids = tokenizer.apply_chat_template(user("7?"), add_generation_prompt=True, return_tensors="pt", return_dict=True)
    out = model.generate(**ids, max_new_tokens=8, do_sample=False, pad_token_id=2)
    assert "yes" in tokenizer.decode(out[0, ids["input_ids"].shape[1] :])


def test_vllm_loads_the_policy_and_ends_its_answers(sft):
    rows = [PromptRow(str(i), tuple(user(f"{i}?")), None, {}) for i in range(8)]
    answers = answer(str(sft[0] / "model"), rows, AnswerConfig(max_tokens=12, max_prompt_tokens=32, temperature=0.1))
    finished = [group[0] for group in answers if group[0].finish_reason == "stop"]
    assert len(finished) >= 6
    assert all("yes" in request.response for request in finished)


def test_the_reward_model_orders_held_out_pairs(reward):
    metrics = reward[1].metrics
    assert metrics["held_out/accuracy"] > 0.9
    assert metrics["held_out/accuracy_low"] < metrics["held_out/accuracy"] < metrics["held_out/accuracy_high"] + 1e-9
    assert 32 <= metrics["held_out/pairs"] <= 64
    assert metrics["held_out/longer_wins"] == 0.5
    assert not metrics["held_out/collapsed"]


def test_plain_transformers_reads_the_score_that_rewards_use(reward, tiny_policy):
    """Right-padded in one batch, where a pad token that is also eos would be read one token early."""
    folder = reward[0] / "model"
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.pad_token != tokenizer.eos_token
    texts = ["aaaa", "bcdefg", "bcaaaadd"]
    conversations = [[*user("x"), {"role": "assistant", "content": text}] for text in texts]
    batch = tokenizer.apply_chat_template(conversations, return_tensors="pt", return_dict=True, padding=True)
    with torch.no_grad():
        raw = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, 0]
    norm = json.loads((folder / "reward_normalisation.json").read_text())
    job_model = validate_job(SFTJob, {"name": "x", "model": {"path": "x"}, "data": {"demonstrations": "x"}}).model
    source = ModelReward(str(folder), job_model, 4096, 64)
    requests = [RewardRequest(tuple(user("x")), text, "stop", None, {}) for text in texts]
    ours = torch.tensor([r.value for r in source.score(requests)])
    torch.testing.assert_close(ours, (raw - norm["mean"]) / norm["std"], atol=1e-4, rtol=0)


def test_held_out_scores_have_mean_zero_and_deviation_one_after_normalisation(reward):
    norm = json.loads((reward[0] / "model" / "reward_normalisation.json").read_text())
    assert norm["std"] > 0
    assert reward[1].metrics["held_out/score_std"] == pytest.approx(norm["std"], rel=0.3)


def test_overlong_prompts_are_left_out_and_the_others_stay(tiny_policy):
    tokenizer = AutoTokenizer.from_pretrained(tiny_policy)
    rows = [PromptRow("short", tuple(user("x")), None, {}), PromptRow("long", tuple(user("x" * 99)), None, {})]
    assert render_prompts(rows, tokenizer, 64).overlong_ids == ("long",)


def wait_for_rows(metrics, count):
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and (not metrics.is_file() or metrics.read_text().count("\n") < count):
        time.sleep(0.02)


def kill_a_rank(metrics, after_steps, killed):
    """SIGKILL one Ray Train worker once `after_steps` are logged."""
    wait_for_rows(metrics, after_steps)
    ranks = [p for p in psutil.process_iter() if "RayTrainWorker" in " ".join(p.cmdline())]
    ranks[0].kill()
    killed.append(ranks[0].pid)


def numbers(folder):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if not k.startswith("time/") and "per_s" not in k} for row in rows]


@pytest.mark.parametrize("kind", ["sft", "reward"])
def test_a_killed_rank_goes_on_from_the_checkpoint_and_the_result_is_the_same(kind, request, tmp_path, tiny_policy):
    folder, undisturbed = request.getfixturevalue(kind)
    make, run = {"sft": (sft_job, run_sft), "reward": (reward_job, run_reward)}[kind]
    killed = []
    watcher = threading.Thread(target=kill_a_rank, args=(tmp_path / kind / "metrics.jsonl", 12, killed))
    watcher.start()
    result = run(make(tmp_path, tiny_policy))
    watcher.join()
    assert killed
    assert list((tmp_path / kind / "checkpoints").glob("step-*/manifest.json"))
    assert result.metrics == undisturbed.metrics
    assert numbers(tmp_path / kind) == numbers(folder)
    before, after = (load_file(f / "model" / "model.safetensors") for f in (folder, tmp_path / kind))
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_a_stage_that_was_cut_off_goes_on_where_it_was(reward, tmp_path, tiny_policy):
    """The driver's view: checkpoints are there, the result is not."""
    job = elsewhere(reward_job(reward[0].parent, tiny_policy), tmp_path)
    shutil.copytree(reward[0], tmp_path / "reward")
    (tmp_path / "reward" / "result.json").unlink()
    shutil.rmtree(tmp_path / "reward" / "model")
    assert run_reward(job).metrics == reward[1].metrics
    assert numbers(tmp_path / "reward") == numbers(reward[0])


@pytest.mark.parametrize(("kind", "sent", "code"), [("sft", signal.SIGTERM, 143), ("reward", signal.SIGINT, 130)])
def test_a_stage_asked_to_end_saves_first_and_goes_on_from_there(kind, sent, code, request, tmp_path, tiny_policy):
    folder, undisturbed = request.getfixturevalue(kind)
    make, run = {"sft": (sft_job, run_sft), "reward": (reward_job, run_reward)}[kind]
    job, mark = make(tmp_path, tiny_policy), uuid.uuid4().hex
    (tmp_path / "job.toml").write_text(to_toml(job))
    log = tmp_path / "log.txt"
    command = [str(Path(sys.executable).with_name("rayrlhf")), kind, str(tmp_path / "job.toml")]
    with log.open("wb") as output:
        process = subprocess.Popen(command, env={**os.environ, chaos.MARK: mark}, stdout=output, stderr=output)
        wait_for_rows(tmp_path / kind / "metrics.jsonl", 7)
        process.send_signal(sent)
        assert process.wait(60) == code, log.read_text()[-3000:]
    assert chaos.survivors(mark) == []
    saved = max(int(path.parent.name[5:]) for path in (tmp_path / kind).glob("checkpoints/*/manifest.json"))
    assert saved >= 7
    assert f"interrupted by {sent.name}: step {saved} is saved, go on with --resume auto" in log.read_text()
    assert "Traceback" not in log.read_text()
    assert run(job).metrics == undisturbed.metrics
    assert numbers(tmp_path / kind) == numbers(folder)


@pytest.mark.parametrize("resume", ["never", "elsewhere"])
def test_a_begun_stage_is_neither_started_anew_nor_taken_from_elsewhere(reward, tmp_path, tiny_policy, resume):
    job = elsewhere(reward_job(reward[0].parent, tiny_policy), tmp_path)
    shutil.copytree(reward[0] / "checkpoints", tmp_path / "reward" / "checkpoints")
    with pytest.raises(CheckpointError, match=r"holds a run already|newest checkpoint"):
        run_reward(job, resume)
