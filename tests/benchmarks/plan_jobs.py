"""Six jobs that differ in depth, width, vocabulary, answers, algorithm and ranks: what `rayrlhf plan` is judged by."""

import json
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from rayrlhf.data.append_log import AppendLog
from rayrlhf.quickstart.initial_model import write_initial_model
from tests import tiny

REWARD = "tests.system.jobs:vowels"
WORDS = "Tell me why the sky is blue and how rain falls on the sea in a long and quiet winter of the north".split()  # noqa: SIM905


@dataclass(frozen=True)
class Shape:
    """A random Llama; the real model where there is none."""

    layers: int
    hidden: int
    vocabulary: int


@dataclass(frozen=True)
class Case:
    """One job: a model, the length of its prompts in words, and what differs from the defaults below."""

    name: str
    shape: Shape | None
    words: int
    steps: int
    sections: dict = field(default_factory=dict)


CASES = [
    Case("tiny-grpo", Shape(2, 64, 2048), 4, 8, {
        "rollout": {"prompts_per_step": 4, "samples_per_prompt": 4, "max_tokens": 16}}),
    Case("wide-grpo", Shape(2, 512, 8192), 8, 6, {
        "rollout": {"prompts_per_step": 8, "samples_per_prompt": 4, "max_tokens": 48},
        "algorithm": {"minibatches": 2}}),
    Case("small-ppo", Shape(4, 256, 4096), 4, 6, {
        "rollout": {"prompts_per_step": 16, "samples_per_prompt": 1, "max_tokens": 32},
        "algorithm": {"kind": "ppo", "kl_coefficient": 0.02, "minibatches": 2}}),
    Case("deep-grpo-zero3", Shape(12, 128, 2048), 8, 6, {
        "rollout": {"prompts_per_step": 8, "samples_per_prompt": 4, "max_tokens": 24},
        "learner": {"ranks": 2, "zero_stage": 3, "micro_batch_tokens": 1024}}),
    Case("long-grpo-kl", Shape(4, 256, 4096), 16, 6, {
        "rollout": {"prompts_per_step": 4, "samples_per_prompt": 8, "max_tokens": 96},
        "algorithm": {"kl_coefficient": 0.05}}),
    Case("smollm2-grpo", None, 8, 4, {
        "rollout": {"prompts_per_step": 4, "samples_per_prompt": 4, "max_tokens": 24},
        "learner": {"micro_batch_tokens": 1024}}),
]  # fmt: skip


def write_model(folder: Path, shape: Shape | None, seed: int = 0) -> Path:
    """The case's model; those of one shape are shared."""
    if shape is None:
        return write_initial_model(folder / "smollm2")
    path = folder / f"llama-{shape.layers}-{shape.hidden}-{shape.vocabulary}"
    if not path.exists():
        torch.manual_seed(seed)
        heads = max(2, shape.hidden // 64)
        config = LlamaConfig(
            vocab_size=shape.vocabulary, hidden_size=shape.hidden, intermediate_size=3 * shape.hidden,
            num_hidden_layers=shape.layers, num_attention_heads=heads, num_key_value_heads=heads,
            tie_word_embeddings=True, max_position_embeddings=1024, bos_token_id=1, eos_token_id=2, pad_token_id=None,
        )  # fmt: skip
        LlamaForCausalLM(config).save_pretrained(path)
        tiny.tokenizer().save_pretrained(path)
    return path


def values(case: Case, folder: Path) -> dict:
    """The job as a mapping; prompts are written beside it."""
    prompts = folder / f"prompts-{case.words}.jsonl"
    rows = [" ".join(WORDS[(i + k) % len(WORDS)] for k in range(case.words)) for i in range(32)]
    content = [json.dumps({"messages": [{"role": "user", "content": row}]}) for row in rows]
    prompts.write_text("\n".join(content) + "\n")
    job = {
        "name": case.name, "seed": 3, "model": {"path": str(write_model(folder, case.shape))},
        "data": {"prompts": str(prompts), "max_prompt_tokens": 160}, "algorithm": {"kind": "grpo"},
        "rollout": {}, "learner": {"learning_rate": 1e-5}, "reward": {"function": REWARD},
        "checkpoint": {"every_steps": 2}, "run": {"directory": str(folder / "runs"), "steps": case.steps},
    }  # fmt: skip
    for section, keys in case.sections.items():
        job[section] = {**job[section], **keys}
    return job


def run(case: Case, folder: Path, timeout_s: float = 300.0) -> Path:
    """Run the job in a process of its own; returns its run directory."""
    file = folder / f"{case.name}.json"
    file.write_text(json.dumps(values(case, folder)))
    subprocess.run([sys.executable, "-m", "tests.benchmarks.plan_jobs", str(file)], check=True, timeout=timeout_s)
    return folder / "runs" / case.name


def rows(run_directory: Path) -> list[dict]:
    """The steps of a run, without the first, which loads and compiles."""
    return [json.loads(line) for line in AppendLog(run_directory / "metrics.jsonl").lines()][1:]


def measured_phases(run_directory: Path) -> dict[str, float]:
    """Seconds of each phase, medians over the steps."""
    steps = rows(run_directory)
    names = [name for name in steps[0] if name.startswith("time/")]
    return {name[5:-2]: statistics.median(step[name] for step in steps if name in step) for name in names}


def main(file: str) -> None:
    """Run one job from a JSON file."""
    from rayrlhf.config.jobs import RLJob
    from rayrlhf.config.load import validate_job
    from rayrlhf.stages.rl import run_rl

    run_rl(validate_job(RLJob, json.loads(Path(file).read_text())), "never")


if __name__ == "__main__":
    started = time.monotonic()
    main(sys.argv[1])
