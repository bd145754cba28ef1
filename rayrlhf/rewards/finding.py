"""Finds a reward service before a run starts anything: is it one, may we, which model has it, and can it score."""

from __future__ import annotations

import time

from pydantic import ValidationError

from rayrlhf.access.strict import explain
from rayrlhf.config.sections import RewardConfig
from rayrlhf.errors import ConfigError
from rayrlhf.rewards.exchange import Exchange, Trouble
from rayrlhf.rewards.remote import Pace, RemoteReward, RemoteService
from rayrlhf.rewards.wire import MODEL, PROBE, ServedModel

START_S = 30.0
"""How long a service may take to be there when a run starts."""
EXPECTED = "expected the address of `rayrlhf serve --role reward`"


def find_service(config: RewardConfig, token: str | None, wait_s: float = START_S) -> RemoteService:
    """Ask the service at `reward.url` for its model, and have it score once.

    Raises:
        ConfigError: it cannot be reached, is something else, refuses the token, or cannot score.

    """
    assert config.url is not None
    where = f"reward.url = {config.url!r}"
    exchange = Exchange(config.url, token)
    try:
        served = _model(exchange, where, wait_s, token)
    finally:
        exchange.close()
    service = RemoteService(config.url, token, served)
    source = RemoteReward(service, config.timeout_s, config.queue_timeout_s)
    (reward,) = source.score([PROBE])
    source.close()
    if reward.status != "ok":
        raise ConfigError(f"{where}: its first score failed: {source.last_failure}")
    return service


def _model(exchange: Exchange, where: str, wait_s: float, token: str | None) -> ServedModel:
    body = _asked(exchange, where, wait_s)
    if isinstance(body, Trouble):
        raise ConfigError(f"{where}: {_explained(body, token)}")
    try:
        return ServedModel.model_validate_json(body)
    except ValidationError as error:
        raise ConfigError(f"{where}: GET {MODEL} answered something else ({explain(error)}); {EXPECTED}") from None


def _asked(exchange: Exchange, where: str, wait_s: float) -> bytes | Trouble:
    """The answer, when it comes within `wait_s`; a service may be on its way up."""
    deadline, pace, attempt = time.monotonic() + wait_s, Pace(most_s=2.0), 0
    while True:
        answer = exchange.ask_model(max(1.0, deadline - time.monotonic()))
        may_come = isinstance(answer, Trouble) and answer.kind in ("wait", "broken")
        pause_s = pace.wait_s(attempt, answer.retry_after_s if isinstance(answer, Trouble) else 0.0)
        if not may_come or time.monotonic() + pause_s > deadline:
            return answer
        if attempt == 0:
            assert isinstance(answer, Trouble)
            print(f"{where}: {answer.reason}; waiting up to {wait_s:.0f} s for it")
        time.sleep(pause_s)
        attempt += 1


def _explained(trouble: Trouble, token: str | None) -> str:
    match trouble.status:
        case 401 if token is None:
            return f"{trouble.reason} (RAYRLHF_REWARD_TOKEN is not set)"
        case 401 | 403:
            return f"{trouble.reason} (the token is the one in RAYRLHF_REWARD_TOKEN)"
        case 0 | 429 | 500 | 502 | 503 | 504:
            return trouble.reason
        case _:
            return f"GET {MODEL} {trouble.reason}; {EXPECTED}"
