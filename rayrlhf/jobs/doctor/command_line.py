"""`rayrlhf doctor`: its options, and what it calls. Heavy imports are the command's."""

from __future__ import annotations

import argparse
import sys
import time
from contextlib import redirect_stdout
from typing import TYPE_CHECKING

from rayrlhf.errors import ConfigError

if TYPE_CHECKING:
    from rayrlhf.jobs.doctor.examination import Patient

SUMMARY = "check a machine or a cluster before money is spent; every red line has its remedy"


def add_doctor(parser: argparse.ArgumentParser) -> None:
    """Options of `rayrlhf doctor`."""
    parser.add_argument("config", nargs="?", help="a job's TOML: check what it needs, too")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="keys of the TOML to change")
    parser.add_argument(
        "--address",
        metavar="HOST:PORT",
        help="a Ray cluster; unset: run.ray_address of the TOML, else RAY_ADDRESS, else this machine alone",
    )
    parser.add_argument("--quick", action="store_true", help="leave out the step of RL on a tiny model")
    parser.add_argument("--json", action="store_true", help="print one JSON object, with all facts")
    parser.set_defaults(run_command=_doctor)


def _doctor(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from rayrlhf.jobs.doctor.examination import Examination
    from rayrlhf.jobs.doctor.findings import Finding
    from rayrlhf.jobs.doctor.lines import Lines, as_json

    patient = _patient(arguments)
    started, found = time.monotonic(), list[Finding]()
    lines = Lines(Console(highlight=False, soft_wrap=True, file=sys.stdout))
    # Ray prints what it has to say, as of a node that died, among the lines; to a program it would be no JSON.
    with Console(stderr=True).status("") as status, redirect_stdout(sys.stderr if arguments.json else sys.stdout):
        examination = Examination(patient, status.update)
        for batch in examination.findings():
            found += batch
            if not arguments.json:
                lines.show(batch, len(examination.facts))
    seconds = time.monotonic() - started
    if arguments.json:
        print(as_json(found, examination.facts, seconds))
    else:
        lines.total(found, seconds)
    return 1 if any(finding.is_red for finding in found) else 0


def _patient(arguments: argparse.Namespace) -> Patient:
    from rayrlhf.jobs.doctor.access import require_address
    from rayrlhf.jobs.doctor.examination import Patient
    from rayrlhf.jobs.doctor.inputs import load_any_job
    from rayrlhf.runtime.environment import own_ray_address

    config, overrides = arguments.config, list(arguments.overrides)
    if config is not None and "=" in config:
        raise ConfigError(f"{config}: a TOML is expected before the keys to change")
    job = load_any_job(config, overrides) if config else None
    address = arguments.address or (job.run.ray_address if job else None) or own_ray_address()
    if address == "local":
        address = None
    if address is not None:
        require_address(address)
    return Patient(address, job, (config, *overrides) if config else (), arguments.quick)
