"""The HTTP API as a FastAPI router, to be mounted by any ingress. JSON in, JSON out, errors in OpenAI's shape.

    POST /v1/feedback  POST /v1/comparisons  GET /v1/tasks/next  GET /v1/progress  GET /v1/overview

The database is used in threads only.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from rayrlhf.access.door import HEADERS, Door, Route, answer_json
from rayrlhf.errors import RequestRefusedError
from rayrlhf.feedback.records import Receipt, read_comparison, read_feedback
from rayrlhf.feedback.service import FeedbackService
from rayrlhf.feedback.summary import summarise
from rayrlhf.feedback.tasks import LabellingTask


def feedback_router(service: FeedbackService, door: Door) -> APIRouter:
    """The routes over an open service."""
    api = _Api(service, door)
    router = APIRouter(prefix="/v1", tags=["feedback"], route_class=Route)
    router.add_api_route("/feedback", api.post_feedback, methods=["POST"], status_code=201)
    router.add_api_route("/comparisons", api.post_comparison, methods=["POST"], status_code=201)
    router.add_api_route("/tasks/next", api.next_task, methods=["GET"])
    router.add_api_route("/progress", api.progress, methods=["GET"])
    router.add_api_route("/overview", api.overview, methods=["GET"])
    return router


@dataclass(frozen=True)
class _Api:
    service: FeedbackService
    door: Door

    async def post_feedback(self, request: Request) -> JSONResponse:
        """A thumb, rating, correction or flag about one answer."""
        token = await self.door.enter(request, "user")
        post = read_feedback(await self.door.read(request))
        return _stored("feedback", await run_in_threadpool(self.service.feedback, post, token.user))

    async def post_comparison(self, request: Request) -> JSONResponse:
        """Ranks of 2 to 9 answers to one prompt."""
        token = await self.door.enter(request, "labeller")
        post = read_comparison(await self.door.read(request))
        return _stored("comparison", await run_in_threadpool(self.service.comparison, post, token.user))

    async def next_task(self, request: Request) -> Response:
        """Answers to compare (`?answers=2`); 204 if there are none that this labeller has not compared."""
        token = await self.door.enter(request, "labeller")
        count = request.query_params.get("answers", "2")
        if not (count.isascii() and count.isdecimal() and len(count) < 4):
            raise RequestRefusedError("answers: a whole number is expected", 400, "invalid_parameter")
        task = await run_in_threadpool(self.service.store.next_task, token.user, int(count))
        return Response(status_code=204, headers=HEADERS) if task is None else answer_json(show_task(task))

    async def progress(self, request: Request) -> JSONResponse:
        """What the caller has done."""
        token = await self.door.enter(request, "user")
        done = await run_in_threadpool(self.service.store.progress, token.user)
        return answer_json({"object": "progress", "user": token.user, "role": token.role, **asdict(done)})

    async def overview(self, request: Request) -> JSONResponse:
        """Everybody's numbers."""
        await self.door.enter(request, "admin")
        summary = await run_in_threadpool(lambda: summarise(self.service.store.snapshot()))
        return answer_json({"object": "overview", **asdict(summary)})


def _stored(kind: str, receipt: Receipt) -> JSONResponse:
    content = {"object": kind, "id": receipt.id, "created": receipt.is_new}
    return answer_json(content, status=201 if receipt.is_new else 200)


def show_task(task: LabellingTask) -> dict[str, Any]:
    """A task as a client gets it."""
    return {
        "object": "task",
        "task_id": task.id,
        "messages": [turn.model_dump() for turn in task.conversation],
        "answers": [asdict(answer) for answer in task.answers],
        "leased_until": task.leased_until,
    }
