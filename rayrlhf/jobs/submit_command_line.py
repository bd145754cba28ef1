"""`rayrlhf submit` and `rayrlhf jobs …`: options, and what each command calls. Heavy imports are the commands'."""

from __future__ import annotations

import argparse
from typing import Any

SUBMIT = "run sft, reward or rl as a Ray job on a cluster, and follow it to its end"
JOBS = "the Ray jobs of a cluster: list, status, logs, stop"


def add_submit(parser: argparse.ArgumentParser) -> None:
    """Options of `rayrlhf submit`."""
    parser.add_argument("config", metavar="CONFIG", help="a TOML file in the working directory")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="keys to change")
    _address(parser)
    parser.add_argument("--detach", action="store_true", help="print the job's id and do not follow it")
    parser.add_argument("--working-dir", default=".", metavar="DIR", help="what is uploaded: config, data, code (here)")
    parser.add_argument("--resume", default="auto", metavar="auto|never|PATH", help="from which checkpoint (auto)")
    parser.add_argument("--job", choices=("sft", "reward", "rl"), help="unset: what the config's keys say")
    parser.add_argument(
        "--driver-cpus",
        type=_cpus,
        metavar="N",
        help="reserved for the driver on the head node (1, or what it has)",
    )
    parser.set_defaults(run_command=_submit)


def add_jobs(parser: argparse.ArgumentParser) -> None:
    """The commands of `rayrlhf jobs`."""
    commands = parser.add_subparsers(dest="jobs_command", required=True, parser_class=argparse.ArgumentParser)
    listing = commands.add_parser("list", help="all jobs that the cluster knows, newest first")
    _address(listing)
    listing.set_defaults(run_command=_list)
    _one_job(commands, "status", "how a job stands").set_defaults(run_command=_status)
    logs = _one_job(commands, "logs", "what a job has printed")
    logs.add_argument("--follow", action="store_true", help="until it ends; then exit with its own result")
    logs.set_defaults(run_command=_logs)
    _one_job(commands, "stop", "let a job save and end").set_defaults(run_command=_stop)


def _one_job(commands: Any, name: str, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    parser.add_argument("target", metavar="ID|CONFIG", help="a job's id, or the TOML file that was submitted")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="CONFIG: those it was submitted with")
    _address(parser)
    return parser


def _address(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--address", metavar="URL", help="the cluster's dashboard, http://HOST:8265; unset: RAY_API_SERVER_ADDRESS"
    )


def _cpus(text: str) -> float:
    cpus = float(text)
    if not 0 <= cpus < 1e6:
        raise ValueError
    return cpus


_cpus.__name__ = "number of CPUs"


def _submit(arguments: argparse.Namespace) -> int:
    from rayrlhf.jobs.submission import SubmitArguments
    from rayrlhf.jobs.submit_run import submit

    what = SubmitArguments(
        arguments.config, arguments.overrides, arguments.working_dir, arguments.resume, arguments.job
    )
    return submit(what, arguments.address, arguments.driver_cpus, arguments.detach)


def _list(arguments: argparse.Namespace) -> int:
    from rayrlhf.jobs.submit_dashboard import Dashboard
    from rayrlhf.jobs.submit_run import table

    dashboard = Dashboard(arguments.address)
    for line in table(dashboard.jobs()) or [f"{dashboard.address}: no job was submitted here yet"]:
        print(line)
    return 0


def _status(arguments: argparse.Namespace) -> int:
    from rayrlhf.jobs.submit_dashboard import Dashboard
    from rayrlhf.jobs.submit_follow import outcome
    from rayrlhf.jobs.submit_run import find_job

    details = find_job(Dashboard(arguments.address), arguments.target, arguments.overrides)
    print(f"{details.submission_id} {outcome(details)}")
    return 0


def _logs(arguments: argparse.Namespace) -> int:
    from rayrlhf.jobs.submit_dashboard import Dashboard
    from rayrlhf.jobs.submit_run import find_job, follow

    dashboard = Dashboard(arguments.address)
    job_id = str(find_job(dashboard, arguments.target, arguments.overrides).submission_id)
    if arguments.follow:
        return follow(dashboard, job_id)
    print(dashboard.logs(job_id), end="")
    return 0


def _stop(arguments: argparse.Namespace) -> int:
    from rayrlhf.jobs.submit_dashboard import Dashboard
    from rayrlhf.jobs.submit_run import find_job, stop

    dashboard = Dashboard(arguments.address)
    return stop(dashboard, find_job(dashboard, arguments.target, arguments.overrides))
