"""One real step of RL on a model of 78,000 random weights: vLLM, DeepSpeed, weight sync and all, in a minute or so.

A process of its own runs it, as `rayrlhf rl` would:

    python -m rayrlhf.jobs.doctor.step FOLDER ADDRESS GPUS LABELS
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rayrlhf.jobs.doctor.findings import Check, Finding
from rayrlhf.jobs.doctor.isolated import run_program
from rayrlhf.jobs.doctor.party import Room

TIMEOUT_S = 600.0
MIN_CPUS = 0.75
"""What its three roles reserve: 0.25 each."""
NODE_LABEL = "ray.io/node-id"
"""Which Ray gives every node."""
QUESTIONS = ("Hi", "Why?", "Who?", "Go on.")
STEP = Check("step", "one RL step")


@dataclass(frozen=True, slots=True)
class StepPlan:
    """Where the step runs. `folder` is shared by the nodes that may take part; `gpus` a role, 0 or 1."""

    folder: str
    address: str | None = None
    gpus: int = 0
    labels: Mapping[str, str] | None = None


def plan_step(plan: StepPlan, room: Sequence[Room], own: str, *, is_shared: bool, on_cpus: bool) -> StepPlan | Finding:
    """On all nodes where their folder is shared, else on this process's `own`; or why there can be no step.

    `on_cpus`: vLLM's build is the one for CPUs.
    """
    if plan.address is not None and not is_shared:
        room = [node for node in room if node.id == own and node.cpus >= MIN_CPUS]
        plan = replace(plan, labels={NODE_LABEL: own})
    if not room:
        remedy = "give a CONFIG whose run.directory is a path that all nodes share, or --quick"
        return STEP.yellow("not run: this node takes no work, and no folder is known to be shared", remedy)
    if not on_cpus and sum(node.gpus for node in room) < 2:
        return STEP.yellow("not run: with vLLM's CUDA build it needs two GPUs", "use a node with two, or --quick")
    return replace(plan, gpus=0 if on_cpus else 1)


@dataclass(frozen=True, slots=True)
class StepFacts:
    """How long it took, or why it did not end well."""

    seconds: float = 0.0
    trouble: str = ""


def try_step(plan: StepPlan) -> StepFacts:
    """Run it; ends what it started."""
    arguments = [plan.folder, plan.address or "", str(plan.gpus), json.dumps(dict(plan.labels or {}))]
    outcome = run_program(__name__, *arguments, timeout_s=TIMEOUT_S)
    return StepFacts(trouble=outcome.trouble) if outcome.told is None else StepFacts(**outcome.told)


def judge_step(facts: StepFacts, where: str) -> Finding:
    """It ended well."""
    if facts.trouble:
        return STEP.red(
            f"{where}: {facts.trouble}", "correct the red lines above first; then run quickstart for the logs"
        )
    return STEP.green(f"{where}: rollout, reward, learning, weight push and checkpoint in {facts.seconds:.0f} s")


def reward(request: Any) -> float:
    """Something that differs between answers."""
    return sum(c in "aeiou" for c in request.response) / 8


def values(plan: StepPlan) -> dict[str, Any]:
    """The job, as its TOML would have it."""
    role = {"gpus": float(plan.gpus), "node_labels": dict(plan.labels or {}), "threads": 1}
    folder = Path(plan.folder)
    return {
        "name": "step",
        "model": {"path": str(folder / "model")},
        "data": {"prompts": str(folder / "prompts.jsonl"), "max_prompt_tokens": 32},
        "algorithm": {"kind": "grpo"},
        "rollout": {**role, "prompts_per_step": 2, "samples_per_prompt": 4, "max_tokens": 8},
        "learner": {**role, "micro_batch_tokens": 256},
        "reward": {
            "function": "rayrlhf.jobs.doctor.step:reward",
            "node_labels": dict(plan.labels or {}),
        },
        "run": {"directory": str(folder / "runs"), "steps": 1, "ray_address": plan.address, "start_timeout_s": 300.0},
    }


def _main(plan: StepPlan) -> None:
    from rayrlhf.config.jobs import RLJob
    from rayrlhf.config.load import validate_job
    from rayrlhf.jobs.doctor.tiny_model import write_model

    folder = Path(plan.folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_model(folder / "model")
    rows = [json.dumps({"messages": [{"role": "user", "content": question}]}) for question in QUESTIONS]
    (folder / "prompts.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    job = validate_job(RLJob, {key: value for key, value in values(plan).items() if value is not None})
    from rayrlhf.stages.rl import run_rl

    started = time.monotonic()
    run_rl(job, "never")
    print(json.dumps({"seconds": time.monotonic() - started}), flush=True)


if __name__ == "__main__":
    where, address, gpus, labels = sys.argv[1:]
    _main(StepPlan(where, address or None, int(gpus), json.loads(labels)))
