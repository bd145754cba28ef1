"""All routes of a service as one ASGI app: OpenAI's, feedback, the page, health. Knows nothing of Ray."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import JSONResponse

from rayrlhf.access.door import Door, answer_json, refusal
from rayrlhf.access.limits import Limits
from rayrlhf.errors import RequestRefusedError
from rayrlhf.feedback.routes import feedback_router
from rayrlhf.feedback.service import FeedbackService
from rayrlhf.serving.answering import Policies, Question, begin
from rayrlhf.serving.chat_routes import chat_router
from rayrlhf.serving.page_routes import page_router
from rayrlhf.serving.settings import ServiceSettings

PROBE_S = 10.0


def http_app(settings: ServiceSettings, service: FeedbackService, policies: Policies) -> FastAPI:
    """All routes; any ASGI server can run it."""
    limits = replace(Limits(), requests_per_minute=settings.requests_per_minute, burst=settings.burst)
    door = Door(service.tokens, limits, service.store.clock)
    app = FastAPI(title="rayrlhf", docs_url=None, redoc_url=None, openapi_url=None)
    app.include_router(chat_router(service, door, policies, settings.name))
    app.include_router(feedback_router(service, door))
    app.include_router(page_router())
    app.add_api_route("/health", _Health(policies, settings.name).get, methods=["GET"])
    app.add_exception_handler(404, _not_found)
    return app


class _Health:
    """Whether an answer can be had; asked for at most once in a while, because it costs one."""

    def __init__(self, policies: Policies, model: str) -> None:
        self._policies, self._model = policies, model
        self._lock = asyncio.Lock()
        self._asked_at, self._trouble = -PROBE_S, ""

    async def get(self) -> JSONResponse:
        """200, or 503 with the reason."""
        async with self._lock:
            if time.monotonic() - self._asked_at >= PROBE_S:
                self._trouble = await self._probe()
                self._asked_at = time.monotonic()
        if self._trouble:
            return refusal(RequestRefusedError(self._trouble, 503, "unhealthy", retry_after_s=10))
        return answer_json({"status": "ok"})

    async def _probe(self) -> str:
        body = {"model": self._model, "prompt": "Hello", "max_tokens": 1}
        try:
            async with asyncio.timeout(PROBE_S):
                await begin(self._policies, Question("completions", body, (), "health", self._policies.slots[0]))
        except TimeoutError:
            return f"no answer within {PROBE_S:g} s"
        except RequestRefusedError as error:
            return str(error)
        except Exception as error:  # noqa: BLE001 (whatever it is, the service is not well)
            return f"{type(error).__name__}"
        return ""


async def _not_found(request: Request, error: Exception) -> JSONResponse:
    return refusal(RequestRefusedError("there is no such route", 404, "not_found"))
