"""Measures whole steps: real PPO jobs with every role.

    python -m rayrlhf.jobs.plan.loop_probe '{"dtype": "float32"}'

A tiny model's arithmetic takes milliseconds; what remains are Ray's calls, journal, commit, and the memory that a
process of each role has before any model is large. A larger one shows what roles that work at the same time cost each
other. Prints one JSON line: seconds by phase and MiB by role, medians over the steps.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rayrlhf.config.jobs import RLJob
from rayrlhf.config.load import validate_job
from rayrlhf.rewards.requests import RewardRequest

STEPS = 15
TEMPLATE = "{% for m in messages %}<s> {{ m['content'] }} <e>{% endfor %}{% if add_generation_prompt %}<s>{% endif %}"
WORDS = [f"w{i}" for i in range(100)]


@dataclass(frozen=True, slots=True)
class LoopRequest:
    """The job that one process runs."""

    dtype: str
    layers: int = 2
    hidden: int = 64
    vocabulary: int = 2048
    answer: int = 16


def length_reward(request: RewardRequest) -> float:
    """A reward that costs nothing."""
    return float(len(request.response) % 7)


def probe_job(folder: Path, request: LoopRequest) -> RLJob:
    """The job, with its model and prompts written into the folder."""
    model, prompts = folder / "model", folder / "prompts.jsonl"
    if not model.exists():
        _write_model(model, request)
        rows = [{"messages": [{"role": "user", "content": " ".join(WORDS[i : i + 24])}]} for i in range(16)]
        prompts.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    values = {
        "name": "probe",
        "model": {"path": str(model), "dtype": request.dtype},
        "data": {"prompts": str(prompts), "max_prompt_tokens": 64},
        "algorithm": {"kind": "ppo"},
        "rollout": {"prompts_per_step": 16, "samples_per_prompt": 1, "max_tokens": request.answer},
        "reward": {"function": "rayrlhf.jobs.plan.loop_probe:length_reward"},
        "checkpoint": {"every_steps": 2},
        "run": {"directory": str(folder / "runs"), "steps": STEPS},
    }
    return validate_job(RLJob, values, source="calibration")


def main(text: str) -> None:
    """Run and print."""
    from rayrlhf.stages.rl import run_rl

    with tempfile.TemporaryDirectory() as folder:
        job = probe_job(Path(folder), LoopRequest(**json.loads(text)))
        directory = run_rl(job, "never")
        rows = [json.loads(line) for line in Path(str(directory.metrics)).read_text().splitlines()][2:]
        spans = json.loads(Path(str(directory.timeline)).read_text())["traceEvents"]
    found = {"phases": phase_seconds(rows), "memory_mib": role_memory(rows)}
    found["phases"] |= {"between": step_seconds(spans, 2, job.checkpoint.every_steps) - sum(found["phases"].values())}
    print(json.dumps(found), flush=True)


def phase_seconds(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Seconds of each phase, medians over the rows of `metrics.jsonl`."""
    names = [name for name in rows[-1] if name.startswith("time/")]
    return {name[5:-2]: statistics.median(row[name] for row in rows if name in row) for name in names}


def role_memory(rows: list[dict[str, Any]]) -> dict[str, float]:
    """MiB of each role's largest process, the most over the rows of `metrics.jsonl`."""
    found: dict[str, float] = {}
    for row in rows:
        for name, value in row.items():
            if name.startswith("memory/"):
                role = name[7:-4].rstrip("0123456789").rstrip("_")
                found[role] = max(found.get(role, 0.0), value)
    return found


def step_seconds(spans: list[dict[str, Any]], skip: int, period: int) -> float:
    """Median seconds from one step's rollout to the next one's, over `period` steps: as many as share a checkpoint."""
    starts = sorted(span["ts"] / 1e6 for span in spans if span["name"] == "rollout")[skip:]
    return statistics.median(after - before for before, after in zip(starts, starts[period:], strict=False)) / period


def _write_model(folder: Path, request: LoopRequest) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    from rayrlhf.jobs.plan.training_probe import random_model

    model, _ = random_model(request.layers, request.hidden, request.vocabulary, request.dtype)
    model.save_pretrained(folder)
    vocabulary = {token: i for i, token in enumerate(["<u>", "<s>", "<e>", *WORDS])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<u>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<u>", bos_token="<s>", eos_token="<e>", pad_token="<e>"
    )
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    main(sys.argv[1])
