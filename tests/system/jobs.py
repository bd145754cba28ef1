"""Tiny RL jobs for whole runs."""

import json
from collections.abc import Sequence
from pathlib import Path

from rayrlhf.config.jobs import RLJob
from rayrlhf.config.load import validate_job
from rayrlhf.data.append_log import AppendLog

QUESTIONS = ["Hi", "How are you?", "What is rain?", "Why?", "Name a fruit.", "Who?", "Say yes.", "Go on."]


def write_prompts(path: Path, questions: Sequence[str] = QUESTIONS) -> Path:
    rows = [{"messages": [{"role": "user", "content": q}]} for q in questions]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def vowels(request):
    """A reward with variance on random text."""
    return sum(c in "aeiou" for c in request.response) / 8


def values(folder: Path, policy, **sections):
    """The mapping of a small GRPO job; `sections` are merged in."""
    job = {
        "name": "run",
        "seed": 3,
        "model": {"path": str(policy)},
        "data": {"prompts": str(write_prompts(folder / "prompts.jsonl")), "max_prompt_tokens": 48},
        "algorithm": {"kind": "grpo"},
        "rollout": {"prompts_per_step": 4, "samples_per_prompt": 4, "max_tokens": 12, "threads": 1},
        "learner": {"learning_rate": 1e-3, "micro_batch_tokens": 256, "threads": 1, "zero_stage": 2},
        "reward": {"function": "tests.system.jobs:vowels"},
        "checkpoint": {"every_steps": 1},
        "run": {"directory": str(folder / "runs"), "steps": 2, "phase_timeout_s": 300.0},
    }
    for section, keys in sections.items():
        job[section] = {**job[section], **keys} if isinstance(job.get(section), dict) else keys
    return job


def make(folder: Path, policy, **sections) -> RLJob:
    return validate_job(RLJob, values(folder, policy, **sections))


def events(directory):
    return rows(directory.events)


def metrics(folder: Path, name: str = "run"):
    return rows(folder / "runs" / name / "metrics.jsonl")


def rows(path: Path):
    """The objects of a JSONL file; none where there is no file."""
    return [json.loads(line) for line in AppendLog(path).lines()]
