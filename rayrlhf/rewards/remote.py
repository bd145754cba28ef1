"""Rewards from a service over HTTP. Every answer gets a score or a reason, never a silent 0.

    requests ──▶ batches ──▶ answered                          a status for each item
                    │ wait, broken: again, later and later      until queue_timeout_s + timeout_s have passed
                    └ split, broken twice: as two halves        so one item that nothing can score is found

`timeout_s` is handed to the service, which counts scoring alone. Everything else is waiting, and has its own budget.
"""

from __future__ import annotations

import itertools
import random
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from rayrlhf.rewards.exchange import Exchange, Trouble
from rayrlhf.rewards.requests import RewardRequest
from rayrlhf.rewards.wire import (
    MalformedAnswerError,
    OtherModelError,
    Scored,
    ServedModel,
    packed,
    post_body,
    read_answer,
)
from rayrlhf.types import Reward

BATCH_ITEMS = 32
BATCH_BYTES = 1 << 20
IN_FLIGHT = 8
"""Batches of one reward worker that a service has at a time; its replicas share them."""
BROKEN_TWICE = 2
BROKEN_MOST = 5
"""An item that a service has taken so often alone, and never answered, is an error."""


@dataclass(frozen=True, slots=True)
class RemoteService:
    """A service that was found and asked: where it is, and which model it had then."""

    url: str
    token: str | None = field(repr=False)
    served: ServedModel


@dataclass(slots=True)
class Pace:
    """Waits between attempts: they double, and a random part is left off, so that clients do not come in step."""

    first_s: float = 0.5
    most_s: float = 15.0
    seed: int = 0
    _random: random.Random = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    def wait_s(self, attempt: int, retry_after_s: float = 0.0) -> float:
        """After attempt 0, 1, …; never less than the service asked for."""
        own_s = min(self.most_s, self.first_s * 2.0 ** min(attempt, 30))
        return max(own_s * self._random.uniform(0.5, 1.0), retry_after_s * self._random.uniform(1.0, 1.25))


@dataclass(frozen=True, slots=True)
class _Item:
    """A request on its way: its id (the place among the requests) and its JSON."""

    id: str
    body: bytes


class RemoteReward:
    """Asks a reward service; `queue_timeout_s` is for all that is not scoring."""

    def __init__(
        self, service: RemoteService, timeout_s: float, queue_timeout_s: float, pace: Pace | None = None
    ) -> None:
        self._service, self._timeout_s, self._queue_timeout_s = service, timeout_s, queue_timeout_s
        self._pace = pace or Pace()
        self._exchange = Exchange(service.url, service.token)
        self.last_failure = ""

    def score(self, requests: list[RewardRequest]) -> list[Reward]:
        """One reward a request, after at most queue_timeout_s + timeout_s."""
        deadline = time.monotonic() + self._queue_timeout_s + self._timeout_s
        scored: dict[str, Scored] = {}
        items: list[_Item] = []
        for place, request in enumerate(requests):
            body = packed(str(place), request)
            if isinstance(body, bytes):
                items.append(_Item(str(place), body))
            else:
                scored[str(place)] = Scored.failed("error", body)
        with ThreadPoolExecutor(IN_FLIGHT) as pool:
            for answered in pool.map(lambda batch: self._settle(batch, deadline), self._batches(items)):
                scored |= answered
        return [self._reward(scored[str(place)]) for place in range(len(requests))]

    def close(self) -> None:
        """Close the connections."""
        self._exchange.close()

    def _batches(self, items: Sequence[_Item]) -> Iterator[list[_Item]]:
        most_items = min(BATCH_ITEMS, self._service.served.max_items)
        most_bytes = min(BATCH_BYTES, self._service.served.max_body_bytes - 100)
        batch: list[_Item] = []
        size = 0
        for item in items:
            if batch and (len(batch) == most_items or size + len(item.body) + 1 > most_bytes):
                yield batch
                batch, size = [], 0
            batch.append(item)
            size += len(item.body) + 1
        if batch:
            yield batch

    def _settle(self, batch: list[_Item], deadline: float) -> dict[str, Scored]:
        """Scores of a batch by id, however many attempts and however small batches it takes."""
        broken = 0
        for attempt in itertools.count():
            outcome = self._attempt(batch, deadline)
            if not isinstance(outcome, Trouble):
                return outcome
            broken += outcome.kind == "broken"
            if len(batch) > 1 and (outcome.kind == "split" or broken == BROKEN_TWICE):
                half = len(batch) // 2
                return self._settle(batch[:half], deadline) | self._settle(batch[half:], deadline)
            if outcome.kind in ("split", "denied") or broken == BROKEN_MOST:
                return _failed(batch, outcome.reason)
            wait_s = self._pace.wait_s(attempt, outcome.retry_after_s)
            if time.monotonic() + wait_s >= deadline:
                budget = f"reward.queue_timeout_s = {self._queue_timeout_s:g} s"
                return _failed(batch, f"not scored within {budget}; the last attempt: {outcome.reason}")
            time.sleep(wait_s)
        raise AssertionError

    def _attempt(self, batch: Sequence[_Item], deadline: float) -> dict[str, Scored] | Trouble:
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            return Trouble("wait", "other answers took all the time")
        body = self._exchange.score(post_body([item.body for item in batch], self._timeout_s), left_s)
        if isinstance(body, Trouble):
            return body
        ids = [item.id for item in batch]
        try:
            return dict(zip(ids, read_answer(body, ids, self._service.served.digest), strict=True))
        except MalformedAnswerError as error:
            return Trouble("broken", f"malformed answer: {error}")
        except OtherModelError as error:
            return Trouble("denied", str(error))

    def _reward(self, scored: Scored) -> Reward:
        if scored.reason is not None:
            self.last_failure = f"{self._service.url}: {scored.reason}"
            print(self.last_failure, file=sys.stderr)
        return scored.reward


def _failed(batch: Sequence[_Item], reason: str) -> dict[str, Scored]:
    return {item.id: Scored.failed("error", reason) for item in batch}
