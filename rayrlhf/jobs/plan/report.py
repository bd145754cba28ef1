"""A plan as text for people and as JSON for programs. Knows nothing of how the numbers are made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from rayrlhf.jobs.plan.hardware import Machine
from rayrlhf.jobs.plan.memory import GIB, ProcessMemory
from rayrlhf.jobs.plan.plan import Alternative, Plan
from rayrlhf.jobs.plan.times import PHASES

SHOWN = {"weight_sync": "weight sync", "between": "log and checkpoint share"}


def as_json(plan: Plan, others: Sequence[Alternative], machine: Machine) -> dict[str, Any]:
    """Everything, in bytes, seconds and tokens; the names are stable."""
    return {
        "machine": {
            "title": machine.title,
            "nodes": machine.nodes,
            "gpus_per_node": machine.gpus_per_node,
            "is_estimate": machine.is_estimate,
            "assumptions": list(machine.assumptions),
        },
        "geometry": {
            "source": plan.geometry.source,
            "trajectories": plan.geometry.trajectories,
            "prompt_tokens": plan.geometry.prompt_tokens,
            "answer_tokens": plan.geometry.answer_tokens,
        },
        "memory": [
            {"role": p.role, "processes": p.count, "bytes": round(p.total), "parts": _rounded(p)} for p in plan.memory
        ],
        "gpus": plan.gpus,
        "cache_tokens": round(plan.cache_tokens),
        "phases_s": {name: round(plan.times.phases[name], 4) for name in PHASES},
        "step_s": round(plan.times.step, 4),
        "run_s": round(plan.times.step * plan.job.run.steps, 1),
        "fits": plan.fits,
        "problems": list(plan.problems),
        "alternatives": [
            {"overrides": list(other.overrides), "step_s": round(other.plan.times.step, 4), "gpus": other.plan.gpus}
            for other in others
        ],
    }


def _rounded(process: ProcessMemory) -> dict[str, int]:
    return {name: round(value) for name, value in process.parts.items()}


def show(plan: Plan, others: Sequence[Alternative], machine: Machine, sizes: dict[str, str], console: Console) -> None:
    """The plan, for people."""
    console.print(f"{plan.job.name} on {machine.title}", markup=False)
    console.print(f"lengths: {plan.geometry.source}", markup=False)
    for name, value in sizes.items():
        console.print(f"  {name}: {value}", markup=False)
    console.print(_memory_table(plan, machine))
    console.print(_time_table(plan, machine))
    for problem in plan.problems:
        console.print(Text(f"does not fit: {problem}", style="bold red"))
    if plan.fits:
        console.print(Text("fits", style="green"))
    _show_alternatives(plan, others, console)
    heading = "estimate, nothing of it was measured on such hardware:" if machine.is_estimate else "based on:"
    console.print(heading, markup=False)
    for assumption in machine.assumptions:
        console.print(f"  {assumption}", markup=False)


def _memory_table(plan: Plan, machine: Machine) -> Table:
    unit = "GPU" if machine.is_gpu else "process"
    table = Table(title=f"memory of one {unit}, GiB", title_justify="left")
    for column in ("role", "processes", "total", "of which"):
        table.add_column(column, justify="left" if column in ("role", "of which") else "right")
    for process in plan.memory:
        parts = sorted(process.parts.items(), key=lambda part: -part[1])
        words = ", ".join(f"{name} {value / GIB:.2f}" for name, value in parts if value >= 0.005 * GIB)
        table.add_row(process.role, str(process.count), f"{process.total / GIB:.2f}", words or "on the CPU")
    return table


def _time_table(plan: Plan, machine: Machine) -> Table:
    title = "predicted time of one step, s" + (" (estimate)" if machine.is_estimate else "")
    table = Table(title=title, title_justify="left")
    table.add_column("phase")
    table.add_column("s", justify="right")
    table.add_column("share", justify="right")
    step = plan.times.step
    for name in PHASES:
        took = plan.times.phases[name]
        table.add_row(SHOWN.get(name, name), f"{took:.2f}", f"{took / step:.0%}")
    beside = ", rollout beside the others" if plan.times.overlaps else ""
    table.add_row(f"step{beside}", f"{step:.2f}", "", style="bold")
    run_s = step * plan.job.run.steps
    table.add_row(f"all {plan.job.run.steps} steps", _duration(run_s), "")
    return table


def _duration(total_s: float) -> str:
    hours, rest = divmod(round(total_s), 3600)
    return f"{hours} h {rest // 60:02d} min" if hours else f"{rest // 60} min {rest % 60:02d} s"


def _show_alternatives(plan: Plan, others: Sequence[Alternative], console: Console) -> None:
    if not others:
        console.print("no change of placement or batching that was tried is faster and fits", markup=False)
        return
    console.print("alternatives that fit, overrides to paste:", markup=False)
    for other in others:
        change = other.plan.times.step / plan.times.step - 1
        gpus = f", {other.plan.gpus} GPUs" if other.plan.gpus else ""
        overrides = " ".join(other.overrides)
        console.print(f"  {overrides}   # {other.plan.times.step:.2f} s a step ({change:+.0%}){gpus}", markup=False)
