"""`rayrlhf submit` and `rayrlhf jobs …` as function calls: submit or attach, follow, list, stop."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from ray.job_submission import JobDetails, JobStatus

from rayrlhf.errors import ClusterAccessError, RunError
from rayrlhf.jobs.submission import STOP_MARGIN_S, SubmitArguments, id_prefix, prepare_submission
from rayrlhf.jobs.submit_dashboard import Attempt, Dashboard
from rayrlhf.jobs.submit_follow import Follower, exit_code, outcome


def submit(arguments: SubmitArguments, address: str | None, driver_cpus: float | None, detach: bool) -> int:
    """Submit a job, or attach to it; follow it to its end unless `detach`. Returns the job's exit code.

    Raises:
        ConfigError: the config, or what it needs, will not do; nothing was sent.
        ClusterAccessError: the cluster cannot be reached or does not let us in.

    """
    submission = prepare_submission(arguments)
    submission.upload.require_fits(Dashboard.upload_limit)
    dashboard = Dashboard(address)
    dashboard.require_token()
    cpus = min(1.0, dashboard.head_cpus()) if driver_cpus is None else driver_cpus
    attempts = dashboard.attempts(submission.prefix)
    if attempts and not attempts[-1].is_over:
        return _attach(dashboard, attempts[-1], detach)
    dashboard.require_driver_fits(cpus)
    for remark in submission.remarks:
        _say(remark)
    job_id = f"{submission.prefix}-{attempts[-1].number + 1 if attempts else 1}"
    is_ours = dashboard.submit(job_id, submission, cpus)
    size = f"{submission.upload.bytes / 2**20:.1f} MiB of {submission.upload.root}"
    _say(f"{job_id}: submitted with {size}" if is_ours else f"{job_id}: somebody else has just submitted it; attached")
    return _show(dashboard, job_id, detach, f"{cpus:g} free CPUs on the head node" if cpus else "the head node")


def follow(dashboard: Dashboard, job_id: str, waits_for: str = "its turn") -> int:
    """Show a job's log until it ends; returns its exit code. Ctrl-C leaves the job running."""
    follower = Follower(dashboard, job_id, lambda text: print(text, end="", flush=True), _say, waits_for)
    try:
        details = follower.follow()
    except KeyboardInterrupt:
        _say(
            f"{job_id} goes on. Follow it again: rayrlhf jobs logs {job_id} --follow --address {dashboard.address}\n"
            f"stop it: rayrlhf jobs stop {job_id} --address {dashboard.address}"
        )
        return 130
    _say(f"{job_id} {outcome(details)}")
    return exit_code(details)


def find_job(dashboard: Dashboard, target: str, overrides: Sequence[str]) -> JobDetails:
    """The job with an id, or the newest attempt of a config.

    Raises:
        ClusterAccessError: the cluster knows no such job.

    """
    if target.endswith(".toml") or Path(target).is_file():
        attempts = dashboard.attempts(id_prefix(target, overrides))
        if not attempts:
            raise ClusterAccessError(
                f"{dashboard.address} knows no job of {target} with these overrides; rayrlhf jobs list shows "
                "those it knows"
            )
        return attempts[-1].details
    if (details := dashboard.find(target)) is None:
        raise ClusterAccessError(
            f"{dashboard.address} knows no job {target!r}; rayrlhf jobs list shows those it knows, and a config is "
            "a TOML file"
        )
    return details


def stop(dashboard: Dashboard, details: JobDetails) -> int:
    """Ask a job to save and end, and wait until it has; returns 0 when it has."""
    job_id = str(details.submission_id)
    if details.status.is_terminal():
        _say(f"{job_id} {outcome(details)}")
        return 0
    dashboard.stop(job_id)
    wait_s = _stop_wait_s(details)
    _say(f"{job_id}: asked to save and end; Ray kills it after {wait_s} s")
    deadline = time.monotonic() + wait_s + STOP_MARGIN_S
    while not (details := dashboard.info(job_id)).status.is_terminal():
        if time.monotonic() > deadline:
            raise RunError(f"{job_id} {outcome(details)} still; it ends as soon as Ray gets to it")
        time.sleep(1.0)
    for line in dashboard.logs(job_id).strip().splitlines()[-1:]:
        print(line)
    _say(f"{job_id} {outcome(details)}; submitting it again resumes it")
    return 0


def table(jobs: Sequence[JobDetails]) -> list[str]:
    """One line a job: id, status, when it began, how long it took, what it runs."""
    lines = []
    width = max((len(job.submission_id or "") for job in jobs), default=0)
    for job in jobs:
        began = (job.start_time or 0) / 1000
        took_s = (job.end_time / 1000 if job.end_time else time.time()) - began
        minutes, seconds = divmod(int(took_s), 60)
        what = (job.metadata or {}).get("job", "")
        since = f"{datetime.fromtimestamp(began):%Y-%m-%d %H:%M}"
        lines.append(
            f"{job.submission_id:{width}}  {job.status.value:9}  {since}  {minutes:4d}:{seconds:02d}  {what}".rstrip()
        )
    return lines


def _attach(dashboard: Dashboard, attempt: Attempt, detach: bool) -> int:
    details = attempt.details
    if details.status == JobStatus.SUCCEEDED:
        _say(f"{attempt.id} succeeded already; another `name` makes it another run")
        return 0
    _say(f"{attempt.id} {outcome(details)}: attached")
    return _show(dashboard, attempt.id, detach, "its turn")


def _show(dashboard: Dashboard, job_id: str, detach: bool, waits_for: str) -> int:
    if detach:
        print(job_id)
        return 0
    return follow(dashboard, job_id, waits_for)


def _stop_wait_s(details: JobDetails) -> int:
    """How long Ray lets the job save. Jobs that we did not submit have Ray's default."""
    env_vars = (details.runtime_env or {}).get("env_vars") or {}
    return int(env_vars.get("RAY_JOB_STOP_WAIT_TIME_S", 3))


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
