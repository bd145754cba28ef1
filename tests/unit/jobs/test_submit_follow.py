import time

import pytest
from ray.job_submission import JobDetails, JobStatus, JobType

from rayrlhf.errors import ClusterAwayError, RunError
from rayrlhf.jobs import submit_follow
from rayrlhf.jobs.submit_follow import Follower, exit_code, outcome


def details(status=JobStatus.RUNNING, **fields):
    return JobDetails(
        type=JobType.SUBMISSION, submission_id="job", status=status, entrypoint="x", start_time=0, **fields
    )


class FakeDashboard:
    """Each stream is chunks of the log from its start; an exception ends it. After the last one the job has ended."""

    def __init__(self, *streams, end=JobStatus.SUCCEEDED, away=0):
        self.streams, self.end, self.away = list(streams), end, away

    async def tail(self, job_id):
        for chunk in self.streams.pop(0) if self.streams else ():
            if isinstance(chunk, Exception):
                raise chunk
            yield chunk

    def info(self, job_id):
        if self.away:
            self.away -= 1
            raise ClusterAwayError("away")
        return details() if self.streams else details(self.end)


class SilentDashboard(FakeDashboard):
    """A stream that is dead without having ended."""

    async def tail(self, job_id):
        import asyncio

        yield "a\n"
        await asyncio.sleep(600)


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    monkeypatch.setattr(submit_follow.time, "sleep", lambda s: None)
    monkeypatch.setattr(submit_follow, "ASK_EVERY_S", 0.05)
    monkeypatch.setattr(submit_follow, "LAST_WORDS_S", 0.05)


def follow(dashboard, **options):
    shown, said = [], []
    end = Follower(dashboard, "job", shown.append, said.append, **options).follow()
    return "".join(shown), said, end


def test_a_stream_that_ends_is_not_the_end_of_the_job():
    shown, said, end = follow(FakeDashboard(["a\n"], ["a\nb\n"], ["a\n", "b\n", "c\n"]))
    assert shown == "a\nb\nc\n"
    assert said == []
    assert end.status == JobStatus.SUCCEEDED


def test_a_dashboard_that_is_away_is_waited_for_and_nothing_is_shown_twice():
    lost = ClusterAwayError("the line is cut")
    shown, said, _ = follow(FakeDashboard(["a\n", "b\n", lost], [lost], ["a\nb\nc", "\nd\n"], away=3))
    assert shown == "a\nb\nc\nd\n"
    assert said[0] == "the line is cut. Trying again for 300 s; the job may well go on"


def test_a_dashboard_that_stays_away_is_given_up():
    with pytest.raises(RunError, match="job: gave up following it: away"):
        follow(FakeDashboard(["a\n"], away=10**9), away_s=0.01)


def test_a_silent_stream_does_not_hide_the_end_of_the_job():
    before = time.monotonic()
    shown, _, end = follow(SilentDashboard(end=JobStatus.FAILED))
    assert (shown, end.status) == ("a\n", JobStatus.FAILED)
    assert time.monotonic() - before < 30


def test_a_pending_job_says_once_what_it_waits_for():
    dashboard = SilentDashboard()
    pending = [details(JobStatus.PENDING)] * 3
    dashboard.info = lambda job_id: pending.pop() if pending else details(JobStatus.SUCCEEDED)
    _, said, _ = follow(dashboard, waits_for="1 free CPUs on the head node")
    assert said == ["job waits for 1 free CPUs on the head node, or for its files to be unpacked there"]


def test_the_exit_code_is_the_jobs_own_result():
    assert exit_code(details(JobStatus.SUCCEEDED, driver_exit_code=0)) == 0
    assert exit_code(details(JobStatus.FAILED, driver_exit_code=2)) == 2
    assert exit_code(details(JobStatus.FAILED, driver_exit_code=1)) == 1
    assert exit_code(details(JobStatus.FAILED, driver_exit_code=143)) == 1
    assert exit_code(details(JobStatus.FAILED)) == 1
    assert exit_code(details(JobStatus.STOPPED)) == 1


def test_a_failure_says_what_to_do_about_it():
    missing = "Job entrypoint command failed with exit code 1, last available logs:\npython: No module named rayrlhf"
    assert "rayrlhf is not installed" in outcome(details(JobStatus.FAILED, message=missing, driver_exit_code=1))
    late = "Job supervisor actor failed to start within 900 seconds."
    assert outcome(details(JobStatus.FAILED, message=late)) == f"failed: {late}"
    assert outcome(details(JobStatus.FAILED, message="…", driver_exit_code=1)) == "failed with exit code 1"
