"""OpenAI's routes, and new answers to compare, as a FastAPI router. Every answer is recorded before its id is given.

POST /v1/chat/completions  POST /v1/completions  GET /v1/models  GET /v1/models/{id}  POST /v1/tasks

"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import ConfigDict, Field, TypeAdapter
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from rayrlhf.access.door import HEADERS, Door, Route, answer_json
from rayrlhf.access.strict import Record, read_strictly
from rayrlhf.errors import RequestRefusedError
from rayrlhf.feedback.records import MAX_ANSWERS, Turn
from rayrlhf.feedback.routes import show_task
from rayrlhf.feedback.service import FeedbackService
from rayrlhf.serving.answering import Policies, Question, begin, events, whole
from rayrlhf.types import Message

_OBJECT = TypeAdapter(dict[str, Any])


class _Asked(Record):
    """What is looked at of a request; the engine validates the rest."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    model: str | None = None
    n: Annotated[int, Field(ge=1, le=MAX_ANSWERS)] | None = None
    stream: bool | None = None


class TaskWanted(Record):
    """Body of `POST /v1/tasks`."""

    messages: Annotated[tuple[Turn, ...], Field(min_length=1, max_length=200)]
    answers: Annotated[int, Field(ge=2, le=MAX_ANSWERS)] = 2
    max_tokens: Annotated[int, Field(ge=1, le=4096)] = 256


_ASKED, _TASK = TypeAdapter(_Asked), TypeAdapter(TaskWanted)


def chat_router(service: FeedbackService, door: Door, policies: Policies, model: str) -> APIRouter:
    """The routes; `model` is the one id there is."""
    api = _Api(service, door, policies, model)
    router = APIRouter(prefix="/v1", tags=["chat"], route_class=Route)
    router.add_api_route("/chat/completions", api.chat, methods=["POST"])
    router.add_api_route("/completions", api.completions, methods=["POST"])
    router.add_api_route("/models", api.models, methods=["GET"])
    router.add_api_route("/models/{model:path}", api.one_model, methods=["GET"])
    router.add_api_route("/tasks", api.make_task, methods=["POST"], status_code=201)
    return router


@dataclass(frozen=True)
class _Api:
    service: FeedbackService
    door: Door
    policies: Policies
    model: str

    async def chat(self, request: Request) -> Response:
        """Answer a conversation."""
        return await self._answer(request, "chat")

    async def completions(self, request: Request) -> Response:
        """Go on with a text."""
        return await self._answer(request, "completions")

    async def models(self, request: Request) -> JSONResponse:
        """The one there is."""
        await self.door.enter(request, "user")
        return answer_json({"object": "list", "data": [self._card()]})

    async def one_model(self, request: Request, model: str) -> JSONResponse:
        """Its card."""
        await self.door.enter(request, "user")
        self._require(model)
        return answer_json(self._card())

    async def make_task(self, request: Request) -> JSONResponse:
        """Several new answers to one conversation, of both versions where two serve, as a task for the caller."""
        token = await self.door.enter(request, "labeller")
        wanted = read_strictly(_TASK, await self.door.read(request))
        conversation = _messages([turn.model_dump() for turn in wanted.messages])
        body = {"model": self.model, "messages": list(conversation), "max_tokens": wanted.max_tokens}
        slots, ids = self.policies.slots, dict[str, str]()
        for _ in range(3):
            numbers = range(len(ids), wanted.answers)
            asked = [Question("chat", body, conversation, token.user, slots[n % len(slots)]) for n in numbers]
            for text, response_id in await asyncio.gather(*map(self._one, asked)):
                ids.setdefault(text, response_id)
            if len(ids) == wanted.answers:
                task = await run_in_threadpool(self.service.store.lease_answers, token.user, list(ids.values()))
                return answer_json(show_task(task), status=201)
        message = f"the policy gave {len(ids)} different answers, {wanted.answers} were asked for"
        raise RequestRefusedError(message, status=409, code="too_few_answers")

    async def _one(self, question: Question) -> tuple[str, str]:
        response, _ = await whole(self.service, self.policies, question)
        return str(response["choices"][0]["message"]["content"]), str(response["rayrlhf"]["response_ids"][0])

    async def _answer(self, request: Request, kind: str) -> Response:
        token = await self.door.enter(request, "user")
        raw = await self.door.read(request)
        asked, body = read_strictly(_ASKED, raw), read_strictly(_OBJECT, raw)
        self._require(asked.model or self.model)
        conversation = _conversation(kind, body)
        slot = self.policies.slot_of(token.user)
        question = Question(kind, {**body, "model": self.model}, conversation, token.user, slot)
        if not asked.stream:
            response, version = await whole(self.service, self.policies, question)
            return _versioned(answer_json(response), version)
        begun = await begin(self.policies, question)
        stream = StreamingResponse(
            events(self.service, question, begun), media_type="text/event-stream", headers=dict(HEADERS)
        )
        return _versioned(stream, begun.version)

    def _require(self, model: str) -> None:
        if model != self.model:
            raise RequestRefusedError(f"model: {self.model!r} is the one there is", 404, "model_not_found")

    def _card(self) -> dict[str, Any]:
        return {"id": self.model, "object": "model", "created": 0, "owned_by": "rayrlhf"}


def _versioned(response: Response, version: int) -> Response:
    response.headers["X-Policy-Version"] = str(version)
    return response


def _conversation(kind: str, body: Mapping[str, Any]) -> tuple[Message, ...]:
    """What is remembered of a request as its conversation."""
    if kind == "chat":
        messages = body.get("messages")
        if not isinstance(messages, list) or not messages:
            raise _wrong("messages: a list of messages is expected")
        return _messages(messages)
    prompt = body.get("prompt")
    if not isinstance(prompt, str) or not prompt or "\0" in prompt:
        raise _wrong("prompt: one text without U+0000 is expected")
    return (Message(role="user", content=prompt),)


def _messages(messages: Sequence[Any]) -> tuple[Message, ...]:
    return tuple(_message(number, message) for number, message in enumerate(messages))


def _message(number: int, message: Any) -> Message:
    where = f"messages.{number}"
    if not isinstance(message, dict):
        raise _wrong(f"{where}: an object with role and content is expected")
    role = {"developer": "system"}.get(str(message.get("role")), message.get("role"))
    if role not in ("system", "user", "assistant", "tool"):
        raise _wrong(f"{where}.role: system, user, assistant or tool is expected")
    content = message.get("content")
    if isinstance(content, list) and all(isinstance(part, dict) and part.get("type") == "text" for part in content):
        content = "".join(str(part.get("text")) for part in content)
    if not isinstance(content, str) or "\0" in content:
        raise _wrong(f"{where}.content: a text without U+0000 is expected")
    return Message(role=role, content=content)


def _wrong(message: str) -> RequestRefusedError:
    return RequestRefusedError(message, status=400, code="invalid_body")
