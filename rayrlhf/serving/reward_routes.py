"""The reward service's HTTP routes as a FastAPI router. `rewards/wire.py` says what goes in and comes out.

    POST /v1/rewards    GET /v1/rewards/model

Answers wait in memory, so how many may is bounded: past it, a request is told when to come again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from fastapi import APIRouter
from pydantic import TypeAdapter
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse

from rayrlhf.access.door import Door, Route, answer_json
from rayrlhf.access.limits import Limits
from rayrlhf.access.strict import read_strictly
from rayrlhf.errors import RequestRefusedError, ScorerLostError
from rayrlhf.rewards.requests import RewardRequest
from rayrlhf.rewards.wire import MODEL, REWARDS, SCORER_LOST, RewardPost, Scored, ServedModel, answer_of

LIMITS = Limits(body_bytes=8 << 20, body_timeout_s=60.0, requests_per_minute=6_000.0, burst=1_000)
"""A run sends everything it has at once, again and again; a person does not."""
RETRY_AFTER_S = 2
_POST = TypeAdapter(RewardPost)


class Scorer(Protocol):
    """What scores: a lane in this process, or replicas elsewhere."""

    async def score(self, requests: Sequence[RewardRequest], timeout_s: float) -> list[Scored]:
        """One score a request; ScorerLostError where it went away with them."""
        ...


def reward_router(scorer: Scorer, served: ServedModel, door: Door, max_queued: int) -> APIRouter:
    """The routes over a scorer; at most `max_queued` items are with it at a time."""
    api = _Api(scorer, served, door, max_queued)
    router = APIRouter(tags=["rewards"], route_class=Route)
    router.add_api_route(REWARDS, api.post_rewards, methods=["POST"])
    router.add_api_route(MODEL, api.model, methods=["GET"])
    return router


@dataclass
class _Api:
    scorer: Scorer
    served: ServedModel
    door: Door
    max_queued: int
    waiting: int = 0

    async def post_rewards(self, request: Request) -> JSONResponse:
        """A score for each item."""
        await self.door.enter(request, "user")
        post = await run_in_threadpool(read_strictly, _POST, await self.door.read(request))
        if len(post.items) > self.served.max_items:
            raise RequestRefusedError(f"at most {self.served.max_items} items are taken", 413, "too_many_items")
        if self.waiting and self.waiting + len(post.items) > self.max_queued:
            message = f"{self.waiting} items wait to be scored; come again"
            raise RequestRefusedError(message, 503, "overloaded", retry_after_s=RETRY_AFTER_S)
        self.waiting += len(post.items)
        try:
            scored = await self.scorer.score([item.request() for item in post.items], post.timeout_s)
        except ScorerLostError as error:
            raise RequestRefusedError(str(error), 503, SCORER_LOST, retry_after_s=RETRY_AFTER_S) from error
        finally:
            self.waiting -= len(post.items)
        return answer_json(answer_of(self.served, [item.id for item in post.items], scored))

    async def model(self, request: Request) -> JSONResponse:
        """Which model this is, and how much is taken at once."""
        await self.door.enter(request, "user")
        return answer_json(self.served.model_dump())
