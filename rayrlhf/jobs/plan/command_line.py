"""`rayrlhf plan CONFIG`: options, and what they call. Heavy imports are the command's."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rayrlhf.errors import ConfigError, InputError
from rayrlhf.jobs.plan.gpus import GPUS

if TYPE_CHECKING:
    from rayrlhf.config.jobs import RLJob
    from rayrlhf.jobs.plan.hardware import Machine

SUMMARY = "memory, batch geometry and time of an RL job before it runs, and what would be faster"


def add_plan(parser: argparse.ArgumentParser) -> None:
    """Options of `rayrlhf plan`."""
    parser.add_argument("config", help="the TOML of an RL job")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="keys to change")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--gpu", choices=sorted(GPUS), help="plan for these GPUs, which need not be here")
    where.add_argument("--cpu", action="store_true", help="plan for CPUs like this machine's (without --gpu)")
    parser.add_argument("--nodes", type=int, default=1, help="machines (1)")
    parser.add_argument("--gpus-per-node", type=int, default=8, help="with --gpu (8)")
    parser.add_argument("--answer-tokens", type=float, help="mean length of answers (rollout.max_tokens)")
    parser.add_argument("--calibrate", action="store_true", help="measure this machine first: twelve minutes")
    parser.add_argument("--calibration", type=Path, help="where calibrations are (~/.cache/rayrlhf/calibration.json)")
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.set_defaults(run_command=_plan)


def _plan(arguments: argparse.Namespace) -> int:
    job = _job(arguments)
    from rayrlhf.jobs.plan.geometry import read_lengths
    from rayrlhf.jobs.plan.models import read_models
    from rayrlhf.jobs.plan.plan import alternatives, make_plan
    from rayrlhf.jobs.plan.report import as_json

    models, lengths = read_models(job), read_lengths(job, arguments.answer_tokens)
    machine = _gpu_machine(job, arguments) if arguments.gpu else _cpu_machine(job, arguments)
    plan = make_plan(job, models, lengths, machine)
    others = alternatives(plan, models, lengths, machine)
    if arguments.json:
        print(json.dumps(as_json(plan, others, machine), indent=1))
        return 0
    from rich.console import Console

    from rayrlhf.jobs.plan.report import show
    from rayrlhf.stages.summary import derived_sizes

    show(plan, others, machine, derived_sizes(job), Console(highlight=False, soft_wrap=True))
    return 0


def _job(arguments: argparse.Namespace) -> RLJob:
    """The job, with GPUs where `--gpu` asks for them and the config has none.

    Raises:
        ConfigError: arguments that contradict each other or the config, or a job that is not an RL job.

    """
    for name in ("nodes", "gpus_per_node"):
        if getattr(arguments, name) < 1:
            raise ConfigError(f"--{name.replace('_', '-')} {getattr(arguments, name)}: 1 or more is expected")
    if arguments.answer_tokens is not None and arguments.answer_tokens <= 0:
        raise ConfigError(f"--answer-tokens {arguments.answer_tokens:g}: more than 0 is expected")
    if arguments.calibrate and (arguments.gpu or arguments.nodes > 1):
        raise ConfigError("--calibrate measures this machine: leave --gpu and --nodes out")
    job = _load(arguments.config, arguments.overrides)
    if job.learner.gpus and not arguments.gpu:
        names = ", ".join(sorted(GPUS))
        raise ConfigError(f"learner.gpus = {job.learner.gpus:g}: say for which GPUs with --gpu ({names})")
    return job if job.learner.gpus or not arguments.gpu else _on_gpus(job)


def _load(path: str, overrides: Sequence[str]) -> RLJob:
    from rayrlhf.config.jobs import RLJob
    from rayrlhf.config.kinds import job_kind
    from rayrlhf.config.load import load_job, read_values

    if (kind := job_kind(read_values(path, overrides))) != "rl":
        raise InputError(f"{path}: a job for `rayrlhf {kind}`; plan knows those of `rayrlhf rl`")
    return load_job(RLJob, path, overrides)


def _on_gpus(job: RLJob) -> RLJob:
    """A CPU config on GPUs: one for every rank and worker; reference and reward model share one."""
    from rayrlhf.jobs.plan.plan import with_keys

    keys: dict[str, Any] = {"learner.gpus": 1.0, "rollout.gpus": 1.0}
    scorers = ["reference"] * job.has_reference + ["reward"] * (job.reward.model is not None)
    keys |= {f"{role}.gpus": 1.0 / len(scorers) for role in scorers}
    keys |= {"critic.gpus": 1.0} if job.has_critic else {}
    lines = " ".join(f"{key}={value:g}" for key, value in keys.items())
    print(f"the config has no GPUs; planned with {lines}", file=sys.stderr)
    return with_keys(job, keys)


def _gpu_machine(job: RLJob, arguments: argparse.Namespace) -> Machine:
    from rayrlhf.jobs.plan.hardware import gpu_machine

    eager = job.rollout.enforce_eager
    return gpu_machine(arguments.gpu, arguments.nodes, arguments.gpus_per_node, job.model.dtype, eager)


def _cpu_machine(job: RLJob, arguments: argparse.Namespace) -> Machine:
    """This machine, calibrated where it was, as many times as `--nodes` says."""
    import psutil

    from rayrlhf.jobs.plan.calibration import calibrate, calibrated
    from rayrlhf.jobs.plan.hardware import cpu_estimate
    from rayrlhf.runtime.environment import node_cores

    path = arguments.calibration or Path.home() / ".cache" / "rayrlhf" / "calibration.json"
    memory = psutil.virtual_memory().total
    machine = cpu_estimate(arguments.nodes, node_cores(), memory, job.model.dtype)
    if arguments.calibrate:
        calibrate(path, job.model.dtype, machine, lambda text: print(f"calibrating: {text}", file=sys.stderr))
    return calibrated(path, job.model.dtype, machine, arguments.nodes) or machine
