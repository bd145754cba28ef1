"""The command line: parse, validate, then import the heavy things. Each command is one function call in Python too."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rayrlhf import __version__
from rayrlhf.cycle import command_line as cycle
from rayrlhf.errors import ConfigError, RayRLHFError
from rayrlhf.feedback import command_line as feedback
from rayrlhf.jobs import submit_command_line as ray_jobs
from rayrlhf.jobs.doctor import command_line as doctor
from rayrlhf.jobs.k8s import command_line as k8s
from rayrlhf.jobs.plan import command_line as plan
from rayrlhf.runtime.environment import allow_insecure
from rayrlhf.serving import command_line as serving

JOBS = {
    "sft": "fine-tune a policy on demonstrations",
    "reward": "fit a reward model on comparisons",
    "rl": "improve a policy against a reward (PPO, GRPO)",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code: 0 done, 2 wrong input, 1 the run failed."""
    arguments = _parse(argv)
    if getattr(arguments, "allow_insecure", False):
        allow_insecure()
    try:
        return int(arguments.run_command(arguments))
    except RayRLHFError as error:
        print(f"rayrlhf {arguments.command}: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:  # a disk or a store
        print(
            f"rayrlhf {arguments.command}: {error}; --resume auto goes on from the newest checkpoint", file=sys.stderr
        )
        return 1
    except KeyboardInterrupt:
        print(f"rayrlhf {arguments.command}: interrupted", file=sys.stderr)
        return 130


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Keys to change may stand before and after options; argparse knows them in one place only."""
    parser = _parser()
    arguments, more = parser.parse_known_args(argv)
    keys = getattr(arguments, "overrides", getattr(arguments, "settings", None))
    if more and (keys is None or any(text.startswith("-") or "=" not in text for text in more)):
        parser.error(f"unrecognized arguments: {' '.join(more)}")
    if keys is not None:
        keys += more
    return arguments


class _CommandParser(argparse.ArgumentParser):
    """Lists the keys of its job's TOML below its options."""

    def format_help(self) -> str:
        command = self.prog.split()[-1]
        if command not in JOBS:
            return super().format_help()
        from rayrlhf.config.keys import help_text

        return f"{super().format_help()}\n{help_text(command)}\n"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="rayrlhf", description="RLHF as one distributed system.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, parser_class=_CommandParser)
    for name, text in JOBS.items():
        job = commands.add_parser(name, help=text, description=text)
        job.add_argument("config", help="a TOML file")
        job.add_argument("overrides", nargs="*", metavar="section.key=value", help="keys to change")
        job.add_argument("--dry-run", action="store_true", help="print the resolved config and sizes, start nothing")
        job.add_argument("--resume", default="auto", metavar="auto|never|PATH", help="from which checkpoint (auto)")
        job.set_defaults(run_command=_run_job)
    text = "add or remove workers of an RL run that is going on"
    workers = commands.add_parser("workers", help=text, description=f"{text}; it looks before every step")
    workers.add_argument("run", metavar="RUN", help="the run's directory")
    workers.add_argument("counts", nargs="+", metavar="role=count", help="role: rollout, reward or reference")
    workers.set_defaults(run_command=_workers)
    text = "write the policy of a checkpoint as a Hugging Face model"
    export = commands.add_parser("export", help=text, description=text)
    export.add_argument(
        "run", metavar="RUN|CHECKPOINT", help="the directory of a run (its newest checkpoint) or of a checkpoint"
    )
    export.add_argument("--to", metavar="PATH", help="where; unset: model-step-… in the run's directory")
    export.set_defaults(run_command=_export)
    report = commands.add_parser("report", help="write the page of a run, report.html, into its directory")
    report.add_argument("run", metavar="RUN", help="a run directory, as in runs/ppo; it may be running or broken")
    report.set_defaults(run_command=_report)
    feedback.add_commands(commands.add_parser("feedback", help=feedback.SUMMARY, description=feedback.SUMMARY))
    cycle.add_cycle(commands.add_parser("cycle", help=cycle.SUMMARY, description=cycle.SUMMARY))
    ray_jobs.add_submit(commands.add_parser("submit", help=ray_jobs.SUBMIT, description=ray_jobs.SUBMIT))
    ray_jobs.add_jobs(commands.add_parser("jobs", help=ray_jobs.JOBS, description=ray_jobs.JOBS))
    serving.add_serve(commands.add_parser("serve", help=serving.SERVE, description=serving.SERVE))
    serving.add_release(commands.add_parser("release", help=serving.RELEASE, description=serving.RELEASE))
    k8s.add_commands(commands.add_parser("k8s", help=k8s.SUMMARY, description=k8s.SUMMARY))
    doctor.add_doctor(commands.add_parser("doctor", help=doctor.SUMMARY, description=doctor.SUMMARY))
    plan.add_plan(commands.add_parser("plan", help=plan.SUMMARY, description=plan.SUMMARY))
    quickstart = commands.add_parser("quickstart", help="the whole recipe on a small real model, on this machine")
    quickstart.add_argument("--directory", default="runs/quickstart", help="where everything goes")
    quickstart.set_defaults(run_command=_quickstart)
    for name in (*JOBS, "submit", "cycle", "serve", "release", "doctor"):
        commands.choices[name].add_argument(
            "--allow-insecure", action="store_true", help="start or join a Ray cluster that asks for no token"
        )
    return parser


def _quickstart(arguments: argparse.Namespace) -> int:
    from rayrlhf.quickstart.run import Quickstart

    if "://" in arguments.directory:
        raise ConfigError(f"--directory {arguments.directory}: a path is expected, not a URL")
    Quickstart(Path(arguments.directory).absolute()).run()
    return 0


def _workers(arguments: argparse.Namespace) -> int:
    from rayrlhf.loop.scaling import ask_for_workers

    wanted = ask_for_workers(arguments.run, arguments.counts)
    print(f"{arguments.run}: from the next step on {', '.join(f'{role} {n}' for role, n in sorted(wanted.items()))}")
    return 0


def _export(arguments: argparse.Namespace) -> int:
    from rayrlhf.stages.export import export_checkpoint

    print(export_checkpoint(arguments.run, arguments.to))
    return 0


def _report(arguments: argparse.Namespace) -> int:
    from rayrlhf.report.page import report

    print(report(arguments.run))
    return 0


def _run_job(arguments: argparse.Namespace) -> int:
    from rayrlhf.config.keys import JOB_MODELS
    from rayrlhf.config.load import load_job

    kind: Any = JOB_MODELS[arguments.command]
    job = load_job(kind, arguments.config, arguments.overrides)
    sys.path.insert(0, str(Path.cwd()))  # `reward.function` may name a module in the working directory
    from rayrlhf.stages import start_job

    start_job(job, resume=arguments.resume, dry_run=arguments.dry_run)
    return 0


if __name__ == "__main__":
    sys.exit(main())
