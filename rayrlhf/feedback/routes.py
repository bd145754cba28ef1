"""The HTTP API as a FastAPI router, to be mounted by any ingress. JSON in, JSON out, errors in OpenAI's shape.

    POST /v1/feedback  POST /v1/comparisons  GET /v1/tasks/next  GET /v1/progress  GET /v1/overview

Each request is authenticated and counted before its body is read. The database is used in threads only.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from fastapi import APIRouter
from fastapi.encoders import jsonable_encoder
from fastapi.routing import APIRoute
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from rayrlhf.errors import FeedbackRefusedError, FeedbackStoreError
from rayrlhf.feedback.limits import Limits, RateLimiter, read_body
from rayrlhf.feedback.records import Receipt, read_comparison, read_feedback
from rayrlhf.feedback.service import FeedbackService
from rayrlhf.feedback.summary import summarise
from rayrlhf.feedback.tasks import LabellingTask
from rayrlhf.feedback.tokens import Role, Token, require_role

T = TypeVar("T")
HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
ERROR_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error", 503: "server_error"}


def feedback_router(service: FeedbackService, limits: Limits | None = None) -> APIRouter:
    """The routes over an open service."""
    api = _Api(service, limits or Limits(), RateLimiter(limits or Limits()))
    router = APIRouter(prefix="/v1", tags=["feedback"], route_class=_Route)
    router.add_api_route("/feedback", api.post_feedback, methods=["POST"], status_code=201)
    router.add_api_route("/comparisons", api.post_comparison, methods=["POST"], status_code=201)
    router.add_api_route("/tasks/next", api.next_task, methods=["GET"])
    router.add_api_route("/progress", api.progress, methods=["GET"])
    router.add_api_route("/overview", api.overview, methods=["GET"])
    return router


class _Route(APIRoute):
    """Turns refusals into responses; in the route, because a router cannot bring exception handlers along."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler with errors translated."""
        handle = super().get_route_handler()

        async def translated(request: Request) -> Response:
            try:
                return await handle(request)
            except FeedbackRefusedError as error:
                return _error(error)
            except (DBAPIError, PoolTimeoutError, FeedbackStoreError):
                # The reason (a path, a statement with its values) is not for clients.
                unavailable = "the feedback store is not available; nothing was stored"
                return _error(FeedbackRefusedError(unavailable, 503, "store_unavailable", retry_after_s=5))

        return translated


@dataclass(frozen=True)
class _Api:
    service: FeedbackService
    limits: Limits
    rate: RateLimiter

    async def post_feedback(self, request: Request) -> JSONResponse:
        """A thumb, rating, correction or flag about one answer."""
        token = await self._enter(request, "user")
        post = read_feedback(await read_body(request, self.limits))
        return _stored("feedback", await run_in_threadpool(self.service.feedback, post, token.user))

    async def post_comparison(self, request: Request) -> JSONResponse:
        """Ranks of 2 to 9 answers to one prompt."""
        token = await self._enter(request, "labeller")
        post = read_comparison(await read_body(request, self.limits))
        return _stored("comparison", await run_in_threadpool(self.service.comparison, post, token.user))

    async def next_task(self, request: Request) -> Response:
        """Answers to compare (`?answers=2`); 204 if there are none that this labeller has not compared."""
        token = await self._enter(request, "labeller")
        count = request.query_params.get("answers", "2")
        if not (count.isascii() and count.isdecimal() and len(count) < 4):
            raise FeedbackRefusedError("answers: a whole number is expected", 400, "invalid_parameter")
        task = await run_in_threadpool(self.service.store.next_task, token.user, int(count))
        return Response(status_code=204, headers=HEADERS) if task is None else _json(_shown(task))

    async def progress(self, request: Request) -> JSONResponse:
        """What the caller has done."""
        token = await self._enter(request, "user")
        done = await run_in_threadpool(self.service.store.progress, token.user)
        return _json({"object": "progress", "user": token.user, **asdict(done)})

    async def overview(self, request: Request) -> JSONResponse:
        """Everybody's numbers."""
        await self._enter(request, "admin")
        summary = await run_in_threadpool(lambda: summarise(self.service.store.snapshot()))
        return _json({"object": "overview", **asdict(summary)})

    async def _enter(self, request: Request, role: Role) -> Token:
        """Who it is, if they may do this now."""
        given, now = request.headers.get("authorization"), self.service.store.clock()
        token = await run_in_threadpool(self.service.tokens.authenticate, given, now)
        self.rate.take(token.user)
        require_role(token, role)
        return token


def _stored(kind: str, receipt: Receipt) -> JSONResponse:
    content = {"object": kind, "id": receipt.id, "created": receipt.is_new}
    return _json(content, status=201 if receipt.is_new else 200)


def _shown(task: LabellingTask) -> dict[str, Any]:
    return {
        "object": "task",
        "task_id": task.id,
        "messages": [turn.model_dump() for turn in task.conversation],
        "answers": [asdict(answer) for answer in task.answers],
        "leased_until": task.leased_until,
    }


def _json(content: dict[str, Any], status: int = 200) -> JSONResponse:
    return JSONResponse(jsonable_encoder(content), status_code=status, headers=HEADERS)


def _error(error: FeedbackRefusedError) -> JSONResponse:
    kind = ERROR_TYPES.get(error.status, "invalid_request_error")
    response = _json({"error": {"message": str(error), "type": kind, "code": error.code}}, error.status)
    if error.retry_after_s is not None:
        response.headers["Retry-After"] = str(error.retry_after_s)
    if error.status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    return response
