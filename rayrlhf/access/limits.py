"""What a request may cost: its size, how long it takes to arrive, and how many of them a user sends."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from starlette.requests import ClientDisconnect, Request

from rayrlhf.errors import RequestRefusedError


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one replica; those of a day and of an answer are in `caps.py`."""

    body_bytes: int = 256 * 1024
    body_timeout_s: float = 30.0
    requests_per_minute: float = 120.0
    burst: int = 30
    """Requests that a user may send at once."""


async def read_body(request: Request, limits: Limits) -> bytes:
    """The body, of which never more than the cap is held; a length that is announced is checked before reading."""
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced[:20]) > limits.body_bytes:
        raise _too_large(limits)
    body = bytearray()
    try:
        async with asyncio.timeout(limits.body_timeout_s):
            async for chunk in request.stream():
                body += chunk
                if len(body) > limits.body_bytes:
                    raise _too_large(limits)
    except TimeoutError:
        message = f"the body did not arrive within {limits.body_timeout_s:g} s"
        raise RequestRefusedError(message, status=408, code="body_timeout") from None
    except ClientDisconnect:
        raise RequestRefusedError("the client has gone", status=400, code="client_disconnected") from None
    return bytes(body)


class RateLimiter:
    """A token bucket for each user: `burst` requests at once, `requests_per_minute` in the long run."""

    REMEMBERED_USERS = 10_000

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self._burst = float(limits.burst)
        self._per_s = limits.requests_per_minute / 60
        self._clock = clock
        self._lock = threading.Lock()
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, user: str) -> None:
        """Count a request, or raise with the time after which the next one is welcome."""
        now = self._clock()
        with self._lock:
            left, since = self._buckets.pop(user, (self._burst, now))
            left = min(self._burst, left + (now - since) * self._per_s)
            is_allowed = left >= 1
            self._buckets[user] = (left - is_allowed, now)
            if len(self._buckets) > self.REMEMBERED_USERS:
                self._buckets.popitem(last=False)
        if not is_allowed:
            wait_s = math.ceil((1 - left) / self._per_s)
            message = f"too many requests; the next one is welcome in {wait_s} s"
            raise RequestRefusedError(message, status=429, code="rate_limited", retry_after_s=wait_s)


def _too_large(limits: Limits) -> RequestRefusedError:
    return RequestRefusedError(f"at most {limits.body_bytes} bytes are taken", status=413, code="body_too_large")
