"""Scores the items of all clients together in one thread, with a deadline for each that counts scoring alone.

    score(items) ─┐
    score(items) ─┼─▶ waiting ──▶ parts of like length ──▶ the thread ──▶ each item's score, or its own reason
    score(items) ─┘

Items that are scored in one part share its time. A part that fails or is late is scored again item by item, so only
the item that is to blame has no score. Scoring that does not end makes the lane lost: a thread cannot be ended, but the
process can be, by `on_lost`. Knows no Ray and no HTTP.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol, TypeVar

from rayrlhf.errors import ScorerLostError
from rayrlhf.rewards.requests import RewardRequest, RewardSource
from rayrlhf.rewards.wire import PROBE, Scored
from rayrlhf.types import Reward

T = TypeVar("T")
GRACE_S = 30.0
"""How much longer than its deadline scoring may take before its process is given up."""
MOST_AT_ONCE = 256
"""Items that are sorted into parts together; more than that wait, so that no part is very old when it is scored."""


class PartedSource(RewardSource, Protocol):
    """A reward source that says which requests it scores at the same time."""

    def parts(self, requests: Sequence[RewardRequest]) -> list[list[int]]:
        """Places in `requests`, in groups; each place once."""
        ...


@dataclass(slots=True, eq=False)
class _Job:
    """An item that waits for its score."""

    request: RewardRequest
    timeout_s: float
    future: asyncio.Future[Scored] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def settle(self, scored: Scored) -> None:
        if not self.future.done():
            self.future.set_result(scored)

    def late(self) -> None:
        reason = f"scoring took longer than {self.timeout_s:g} s"
        self.settle(Scored.failed("timeout", reason, self.timeout_s))


class ScoringLane:
    """One thread around a reward source; used from one event loop."""

    def __init__(
        self, source: PartedSource, grace_s: float = GRACE_S, on_lost: Callable[[str], None] = lambda _: None
    ) -> None:
        self._source, self._grace_s, self._on_lost = source, grace_s, on_lost
        self._thread = ThreadPoolExecutor(1, "scoring")
        self._turn = asyncio.Lock()
        self._arrived = asyncio.Event()
        self._waiting: deque[_Job] = deque()
        self._taken: list[_Job] = []
        self._work: asyncio.Task[None] | None = None
        self._lost: str | None = None

    async def score(self, requests: Sequence[RewardRequest], timeout_s: float) -> list[Scored]:
        """One score a request, in order. Cancelled, what has not been scored never will be.

        Raises:
            ScorerLostError: scoring does not end; this lane will score nothing more.

        """
        self._require_alive()
        if self._work is None:
            self._work = asyncio.create_task(self._run())
            self._work.add_done_callback(self._ended)
        jobs = [_Job(request, timeout_s) for request in requests]
        self._waiting.extend(jobs)
        self._arrived.set()
        return await asyncio.gather(*(job.future for job in jobs))

    async def check(self, timeout_s: float) -> None:
        """Score a probe, before whatever waits.

        Raises:
            ScorerLostError: it has no score.

        """
        self._require_alive()
        probe = _Job(PROBE, timeout_s)
        await self._score([probe])
        scored = await probe.future
        if scored.reason is not None:
            raise ScorerLostError(f"the probe has no score: {scored.reason}")

    def close(self) -> None:
        """Score nothing more."""
        if self._work is not None:
            self._work.cancel()
        self._thread.shutdown(wait=False)

    async def _run(self) -> None:
        while True:
            await self._arrived.wait()
            self._taken = [self._waiting.popleft() for _ in range(min(MOST_AT_ONCE, len(self._waiting)))]
            if not self._waiting:
                self._arrived.clear()
            for part in await self._parts(self._taken):
                await self._score(part)

    async def _parts(self, jobs: Sequence[_Job]) -> list[list[_Job]]:
        """Every item alone where one of them cannot even be read."""
        requests = [job.request for job in jobs]
        limit_s = max(job.timeout_s for job in jobs) + self._grace_s
        async with self._turn:
            try:
                places = await self._in_thread(partial(self._source.parts, requests), limit_s)
            except ScorerLostError:
                raise
            except Exception:  # noqa: BLE001 (a template may raise anything; whose it was shows when each is scored)
                places = [[place] for place in range(len(jobs))]
        return [[jobs[place] for place in part] for part in places]

    async def _score(self, part: Sequence[_Job]) -> None:
        part = [job for job in part if not job.future.done()]  # of clients that are still there
        if not part:
            return
        async with self._turn:
            again = await self._try(part)
        for job in again:
            await self._score([job])

    async def _try(self, part: Sequence[_Job]) -> Sequence[_Job]:
        """Settle what can be settled; returns who has to be scored alone."""
        alone = part[0] if len(part) == 1 else None
        alarm = asyncio.get_running_loop().call_later(alone.timeout_s, alone.late) if alone else None
        limit_s = max(job.timeout_s for job in part) + self._grace_s
        try:
            rewards, took_s = await self._in_thread(partial(self._timed, [job.request for job in part]), limit_s)
        except ScorerLostError:
            raise
        except Exception as error:  # noqa: BLE001 (a source may raise anything; it becomes a status)
            if alone is None:
                return part
            alone.settle(Scored.failed("error", f"{type(error).__name__}: {error}"))
            return ()
        finally:
            if alarm is not None:
                alarm.cancel()
        return self._settle(part, rewards, took_s)

    def _settle(self, part: Sequence[_Job], rewards: Sequence[Reward], took_s: float) -> Sequence[_Job]:
        again: list[_Job] = []
        for job, reward in zip(part, rewards, strict=True):
            if took_s <= job.timeout_s:
                job.settle(Scored(reward, None if reward.status == "ok" else self._source.last_failure, took_s))
            elif len(part) == 1:
                job.late()
            else:
                again.append(job)
        return again

    def _timed(self, requests: list[RewardRequest]) -> tuple[list[Reward], float]:
        began = time.monotonic()
        rewards = self._source.score(requests)
        return rewards, time.monotonic() - began

    async def _in_thread(self, call: Callable[[], T], limit_s: float) -> T:
        self._require_alive()
        running = asyncio.get_running_loop().run_in_executor(self._thread, call)
        done, _ = await asyncio.wait([running], timeout=limit_s)
        if not done:
            self._give_up(f"scoring has not ended within {limit_s:g} s")
            self._require_alive()
        return running.result()

    def _require_alive(self) -> None:
        if self._lost is not None:
            raise ScorerLostError(self._lost)

    def _ended(self, work: asyncio.Task[None]) -> None:
        if not work.cancelled() and (error := work.exception()) is not None:
            self._give_up(str(error))

    def _give_up(self, reason: str) -> None:
        """Nobody waits for what will not be scored."""
        if self._lost is not None:
            return
        self._lost = reason
        for job in (*self._taken, *self._waiting):
            if not job.future.done():
                job.future.set_exception(ScorerLostError(reason))
        self._on_lost(reason)
