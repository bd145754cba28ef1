"""Follow a job to its end: its logs as they come, and its own result.

A log stream that ends says nothing about the job, and one that is silent may be dead: so the status is asked for in
between. A dashboard that is away for a while is waited for, and what was shown is not shown again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from ray.job_submission import JobDetails, JobStatus

from rayrlhf.errors import ClusterAwayError, RunError
from rayrlhf.jobs.submit_dashboard import Dashboard

ASK_EVERY_S = 5.0
AWAY_S = 300.0
LAST_WORDS_S = 5.0
"""How long a stream may go on after its job has ended."""
PENDING_S = 10.0


@dataclass(slots=True)
class Follower:
    """Shows one job: its log through `show`, what else there is to say through `say`."""

    dashboard: Dashboard
    job_id: str
    show: Callable[[str], None]
    say: Callable[[str], None]
    waits_for: str = "its turn"
    away_s: float = AWAY_S
    _shown: int = 0
    _said_pending: bool = False

    def follow(self) -> JobDetails:
        """Show the log until the job has ended.

        Raises:
            RunError: the cluster is away for too long, or is a new one that does not know the job.

        """
        away_since: float | None = None
        while True:
            try:
                asyncio.run(self._stream())
                details = self.dashboard.info(self.job_id)
                if details.status.is_terminal():
                    return details
                away_since = None
            except ClusterAwayError as error:
                if away_since is None:
                    away_since = time.monotonic()
                    self.say(f"{error}. Trying again for {self.away_s:.0f} s; the job may well go on")
                if time.monotonic() - away_since > self.away_s:
                    raise RunError(f"{self.job_id}: gave up following it: {error}") from None
            time.sleep(1.0)

    async def _stream(self) -> None:
        """Show what is new until the stream ends, or the job has."""
        stream = aiter(self.dashboard.tail(self.job_id))
        to_skip = self._shown
        ends_at: float | None = None
        following = asyncio.ensure_future(anext(stream, None))
        try:
            while ends_at is None or time.monotonic() < ends_at:
                if not (await asyncio.wait({following}, timeout=ASK_EVERY_S if ends_at is None else LAST_WORDS_S))[0]:
                    ends_at = ends_at or await self._ask()
                    continue
                if (text := following.result()) is None:
                    return
                new, to_skip = text[to_skip:], max(0, to_skip - len(text))
                self._shown += len(new)
                if new:
                    self.show(new)
                following = asyncio.ensure_future(anext(stream, None))
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)

    async def _ask(self) -> float | None:
        """Until when to listen on, if the job has ended; raises if the dashboard is away."""
        details = await asyncio.to_thread(self.dashboard.info, self.job_id)
        waited_s = time.time() - (details.start_time or 0) / 1000
        if details.status == JobStatus.PENDING and waited_s > PENDING_S and not self._said_pending:
            self._said_pending = True
            self.say(f"{self.job_id} waits for {self.waits_for}, or for its files to be unpacked there")
        return time.monotonic() + LAST_WORDS_S if details.status.is_terminal() else None


def exit_code(details: JobDetails) -> int:
    """The job's own result: 0 done, 2 its input was wrong, 1 anything else."""
    if details.status == JobStatus.SUCCEEDED:
        return 0
    return 2 if details.status == JobStatus.FAILED and details.driver_exit_code == 2 else 1


def outcome(details: JobDetails) -> str:
    """How a job stands, in one sentence."""
    status, message = str(details.status.value), (details.message or "").strip()
    if details.status != JobStatus.FAILED:
        return {"SUCCEEDED": "succeeded", "STOPPED": "was stopped", "PENDING": "is pending", "RUNNING": "is running"}[
            status
        ]
    if "No module named rayrlhf" in message or details.driver_exit_code == 127:
        return "failed: rayrlhf is not installed where the job ran; start the cluster's nodes from rayrlhf's image"
    if details.driver_exit_code is not None:
        return f"failed with exit code {details.driver_exit_code}"
    return f"failed: {message.splitlines()[0] if message else 'Ray gives no reason'}"
