"""Six jobs that differ in depth, width, vocabulary, answers, algorithm and ranks: what `rayrlhf plan` is judged by."""

import contextlib
import json
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from rayrlhf.data.append_log import AppendLog
from rayrlhf.jobs.plan.loop_probe import phase_seconds, step_seconds
from rayrlhf.quickstart.initial_model import write_initial_model
from tests import tiny

ROLES = ("learner", "critic", "reference", "reward", "rollout")
REWARD = "tests.system.jobs:vowels"
CHECKPOINT_EVERY = 2
LOOK_S = 2.0
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
    Case("long-grpo-kl", Shape(4, 256, 4096), 12, 6, {
        "rollout": {"prompts_per_step": 4, "samples_per_prompt": 6, "max_tokens": 96},
        "algorithm": {"kl_coefficient": 0.05}}),
    Case("smollm2-grpo", None, 8, 7, {
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
        "checkpoint": {"every_steps": CHECKPOINT_EVERY},
        "run": {"directory": str(folder / "runs"), "steps": case.steps},
    }  # fmt: skip
    for section, keys in case.sections.items():
        job[section] = {**job[section], **keys}
    return job


def run(case: Case, folder: Path, timeout_s: float = 300.0) -> Path:
    """Run the job in a process of its own; returns its run directory."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{case.name}.json"
    file.write_text(json.dumps(values(case, folder)))
    command = [sys.executable, "-m", "tests.benchmarks.plan_jobs", str(file)]
    subprocess.run(command, check=True, timeout=timeout_s, stdout=subprocess.DEVNULL)
    return folder / "runs" / case.name


def rows(run_directory: Path) -> list[dict]:
    """The steps of a run, without the first two: they load, compile and create moments."""
    return [json.loads(line) for line in AppendLog(run_directory / "metrics.jsonl").lines()][2:]


def measured(run_directory: Path) -> tuple[dict[str, float], float]:
    """Seconds of each phase and of whole steps, medians over the steps."""
    spans = json.loads((run_directory / "timeline.json").read_text())["traceEvents"]
    return phase_seconds(rows(run_directory)), step_seconds(spans, 2, CHECKPOINT_EVERY)


def peaks_mib(run_directory: Path) -> dict[str, float]:
    """The most memory that a process of each role ever held, its children included."""
    return json.loads((run_directory / "peaks.json").read_text())


class PeakWatch(threading.Thread):
    """Reads the kernel's high-water mark of every role's process now and then: looking often would slow the run."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.by_process: dict[tuple[str, int], dict[int, float]] = {}
        self.ended = threading.Event()

    def run(self) -> None:
        while not self.ended.wait(LOOK_S):
            for process in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.Error, OSError, IndexError):
                    name = process.cmdline()[0]
                    if name.startswith("ray::") and (role := name[5:].partition("Role")[0].lower()) in ROLES:
                        members = [process, *process.children(recursive=True)]
                        found = self.by_process.setdefault((role, process.pid), {})
                        found.update({member.pid: _high_water_mib(member.pid) for member in members})

    def peaks(self) -> dict[str, float]:
        """By role, the largest process."""
        self.ended.set()
        sums = [(role, sum(members.values())) for (role, _), members in self.by_process.items()]
        return {role: max(value for other, value in sums if other == role) for role, _ in sums}


def _high_water_mib(pid: int) -> float:
    text = Path(f"/proc/{pid}/status").read_text()
    marks = [int(line.split()[1]) / 1024 for line in text.splitlines() if line.startswith("VmHWM:")]
    return marks[0] if marks else 0.0  # a process that has ended has none


def main(file: str) -> None:
    """Run one job from a JSON file, and note its peaks."""
    from rayrlhf.config.jobs import RLJob
    from rayrlhf.config.load import validate_job
    from rayrlhf.stages.rl import run_rl

    watch = PeakWatch()
    watch.start()
    directory = run_rl(validate_job(RLJob, json.loads(Path(file).read_text())), "never")
    Path(str(directory.root), "peaks.json").write_text(json.dumps(watch.peaks()))


if __name__ == "__main__":
    main(sys.argv[1])
