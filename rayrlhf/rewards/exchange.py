"""One HTTP request to a reward service, and what its outcome means for the items in it. Decides nothing.

    body of an answer │ wait: not now │ split: too much, or one item is wrong │ broken: taken, and failed │ denied

Every request has a deadline as a whole: a server that sends a byte now and then does not outwait it.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Literal

import httpx

from rayrlhf.errors import ConfigError
from rayrlhf.rewards.wire import MODEL, REWARDS, SCORER_LOST

CONNECT_S = 10.0
KEPT_OPEN_S = 2.0
"""Shorter than servers keep idle connections, so that none is used while its server closes it."""
MAX_ANSWER_BYTES = 32 << 20
NOT_NOW = (429, 502, 503)
TAKEN_AND_FAILED = (500, 504)
ITEMS_REFUSED = (400, 413, 422)
SHOWN = 300
"""Characters of a service's own words that are repeated."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """No answer. `wait`: the same request may be taken later. `split`: with fewer items it may be. `broken`: it was
    taken and no answer came; perhaps one item is to blame. `denied`: no request would be taken.
    """

    kind: Literal["wait", "split", "broken", "denied"]
    reason: str
    retry_after_s: float = 0.0
    status: int = 0


class Exchange:
    """Connections to one service; safe to use from several threads."""

    def __init__(self, url: str, token: str | None) -> None:
        if token is not None and not (token.isascii() and token.isprintable() and " " not in token):
            raise ConfigError("RAYRLHF_REWARD_TOKEN holds characters that no token has")
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._url = url
        self._client = httpx.Client(headers=headers, limits=httpx.Limits(keepalive_expiry=KEPT_OPEN_S))

    def ask_model(self, timeout_s: float) -> bytes | Trouble:
        """GET /v1/rewards/model."""
        return self._send("GET", MODEL, b"", timeout_s)

    def score(self, body: bytes, timeout_s: float) -> bytes | Trouble:
        """POST /v1/rewards."""
        return self._send("POST", REWARDS, body, timeout_s)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _send(self, method: str, path: str, body: bytes, timeout_s: float) -> bytes | Trouble:
        deadline = time.monotonic() + timeout_s
        timeout = httpx.Timeout(timeout_s, connect=min(CONNECT_S, timeout_s))
        headers = {"Content-Type": "application/json"} if body else {}
        try:
            with self._client.stream(
                method, self._url + path, content=body, headers=headers, timeout=timeout
            ) as response:
                return _outcome(response, _read(response, deadline))
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            return Trouble("wait", f"cannot be reached: {_said(error)}")
        except httpx.TimeoutException:
            return Trouble("broken", f"no answer within {timeout_s:.0f} s")
        except (httpx.RequestError, _TooLongError) as error:
            return Trouble("broken", f"the answer was cut off: {_said(error)}")


class _TooLongError(Exception):
    """An answer that does not end."""


def _read(response: httpx.Response, deadline: float) -> bytes:
    body = bytearray()
    for chunk in response.iter_bytes():
        body += chunk
        if len(body) > MAX_ANSWER_BYTES:
            raise _TooLongError(f"it is longer than {MAX_ANSWER_BYTES} bytes")
        if time.monotonic() > deadline:
            raise _TooLongError("it was not complete at the deadline")
    return bytes(body)


def _outcome(response: httpx.Response, body: bytes) -> bytes | Trouble:
    status = response.status_code
    if status == 200:
        return body
    code, reason = _error(body)
    reason = f"answered {status}: {reason or response.reason_phrase}"
    retry_after_s = _retry_after_s(response.headers.get("retry-after", ""))
    if code == SCORER_LOST or status in TAKEN_AND_FAILED:
        return Trouble("broken", reason, retry_after_s, status)
    if status in NOT_NOW:
        return Trouble("wait", reason, retry_after_s, status)
    return Trouble("split" if status in ITEMS_REFUSED else "denied", reason, status=status)


def _error(body: bytes) -> tuple[str, str]:
    """The code and the message of an error in OpenAI's shape, else what is legible of it."""
    try:
        error = json.loads(body)["error"]
        return str(error.get("code")), str(error["message"])[:SHOWN]
    except (ValueError, KeyError, TypeError, AttributeError):
        return "", " ".join(body[:SHOWN].decode("utf-8", "replace").split())


def _retry_after_s(header: str) -> float:
    """Seconds, or a date (RFC 9110, 10.2.3)."""
    if header.strip().isdecimal():
        return float(header[:10])
    try:
        when = parsedate_to_datetime(header)
    except ValueError:
        return 0.0
    return max(0.0, (when.replace(tzinfo=when.tzinfo or UTC) - datetime.now(UTC)).total_seconds())


def _said(error: Exception) -> str:
    return str(error) or type(error).__name__
