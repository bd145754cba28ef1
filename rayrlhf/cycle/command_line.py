"""`rayrlhf cycle CONFIG`."""

from __future__ import annotations

import argparse

from rayrlhf.config.load import load_job
from rayrlhf.cycle.config import CycleJob

SUMMARY = "one turn of the loop: people's comparisons, training, gates, canary, promotion or not"


def add_cycle(parser: argparse.ArgumentParser) -> None:
    """Options of `rayrlhf cycle`."""
    parser.add_argument("config", help="a TOML file, see docs/cycle.md")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="keys to change")
    parser.add_argument("--dry-run", action="store_true", help="check the config, start nothing")
    parser.set_defaults(run_command=_cycle)


def _cycle(arguments: argparse.Namespace) -> int:
    job = load_job(CycleJob, arguments.config, arguments.overrides)
    job.check()
    if arguments.dry_run:
        print(f"{arguments.config}: the cycle and the jobs of its stages can be read")
        return 0
    from rayrlhf.cycle.run import Cycle

    Cycle(job).run()
    return 0
