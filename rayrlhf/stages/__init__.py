"""The stages, one function each; `start_job` finds the one for a config."""

from __future__ import annotations

from rayrlhf.config.jobs import Job, RLJob, SFTJob


def start_job(job: Job, *, resume: str = "auto", dry_run: bool = False) -> None:
    """Run any job, or only say what it would do."""
    from rayrlhf.stages.summary import print_plan, print_summary

    if dry_run:
        print_plan(job)
        check_inputs(job, resume)
    elif isinstance(job, RLJob):
        from rayrlhf.stages.rl import run_rl

        print_summary(run_rl(job, resume), {})
    else:
        from rayrlhf.stages.reward_model import run_reward
        from rayrlhf.stages.sft import run_sft

        result = run_sft(job, resume) if isinstance(job, SFTJob) else run_reward(job, resume)
        print_summary(result.directory, result.metrics)


def check_inputs(job: Job, resume: str) -> None:
    """Models, data, reward and checkpoint, as a run checks them before anything is allocated."""
    if isinstance(job, RLJob):
        from rayrlhf.stages.rl import prepare

        prepare(job, resume)
    elif isinstance(job, SFTJob):
        from rayrlhf.stages.sft import SFTTask

        SFTTask(job)
    else:
        from rayrlhf.stages.reward_model import RewardTask

        RewardTask(job)
