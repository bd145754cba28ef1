"""The stages, one function each; `start_job` finds the one for a config."""

from __future__ import annotations

from rayrlhf.config.jobs import Job, RLJob


def start_job(job: Job, *, resume: str = "auto", dry_run: bool = False) -> None:
    """Run any job."""
    if isinstance(job, RLJob):
        from rayrlhf.stages.rl import run_rl

        run_rl(job, resume)
