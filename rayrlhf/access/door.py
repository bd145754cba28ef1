"""The one way into every HTTP route: who is it, may they, how often, how much; and how refusals look.

Each request is authenticated and counted before its body is read. Errors are in OpenAI's shape.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from fastapi.encoders import jsonable_encoder
from fastapi.routing import APIRoute
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from rayrlhf.access.limits import Limits, RateLimiter, read_body
from rayrlhf.access.tokens import Role, Token, TokenFile, require_role
from rayrlhf.errors import FeedbackStoreError, RequestRefusedError

HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
ERROR_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


@dataclass
class Door:
    """Tokens and limits. One for all routes of a replica, so that a user has one allowance."""

    tokens: TokenFile
    limits: Limits = field(default_factory=Limits)
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)

    def __post_init__(self) -> None:
        self._rate = RateLimiter(self.limits)

    async def enter(self, request: Request, role: Role) -> Token:
        """Who it is, if they may do this now."""
        given = request.headers.get("authorization")
        token = await run_in_threadpool(self.tokens.authenticate, given, self.clock())
        self._rate.take(token.user)
        require_role(token, role)
        return token

    async def read(self, request: Request) -> bytes:
        """The body of a request that has entered."""
        return await read_body(request, self.limits)


class Route(APIRoute):
    """Turns refusals into responses; in the route, because a router cannot bring exception handlers along."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler with errors translated."""
        handle = super().get_route_handler()

        async def translated(request: Request) -> Response:
            try:
                return await handle(request)
            except RequestRefusedError as error:
                return refusal(error)
            except (DBAPIError, PoolTimeoutError, FeedbackStoreError):
                # The reason (a path, a statement with its values) is not for clients.
                unavailable = "the feedback store is not available; nothing was stored"
                return refusal(RequestRefusedError(unavailable, 503, "store_unavailable", retry_after_s=5))
            except HTTPException:
                raise
            except Exception:  # a bug, or what it runs on: for the log, and in the shape that clients can read
                logging.getLogger(__name__).exception("%s failed", request.url.path)
                return refusal(RequestRefusedError("the request failed", 500, "internal_error"))

        return translated


def answer_json(content: Any, status: int = 200) -> JSONResponse:
    """A response that no cache keeps."""
    return JSONResponse(jsonable_encoder(content), status_code=status, headers=HEADERS)


def refusal(error: RequestRefusedError) -> JSONResponse:
    """What a client is told."""
    kind = ERROR_TYPES.get(error.status, "server_error" if error.status >= 500 else "invalid_request_error")
    response = answer_json({"error": {"message": str(error), "type": kind, "code": error.code}}, error.status)
    if error.retry_after_s is not None:
        response.headers["Retry-After"] = str(error.retry_after_s)
    if error.status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    return response
