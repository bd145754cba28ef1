"""A service for the page without a policy: chat, tasks and models are a small fake, all else is real.

Answers are recorded by the real `FeedbackService`, so they have ids that can be rated, and tasks are leased by the real
store. The last message says how to answer: one that holds BREAK breaks off, SILENT is an empty answer, SLOW takes long.
"""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from contextlib import contextmanager

import uvicorn
from fastapi import APIRouter, FastAPI
from starlette.requests import Request
from starlette.responses import StreamingResponse

from rayrlhf.access.door import Door, Route, answer_json
from rayrlhf.access.limits import Limits
from rayrlhf.feedback.routes import feedback_router, show_task
from rayrlhf.feedback.service import Origin
from rayrlhf.serving.page_routes import page_router

MODEL = "chat-ppo"


class FakeChat:
    """The routes; `say` may be replaced by what gives the text of the n-th answer to a question."""

    def __init__(self, service, door):
        self.service, self.door = service, door
        self.say = lambda question, number: f"{number + 1}. You asked: {question}"
        self.versions = (1, 2)
        self.asked = []

    def router(self):
        router = APIRouter(prefix="/v1", route_class=Route)
        router.add_api_route("/models", self.models, methods=["GET"])
        router.add_api_route("/chat/completions", self.chat, methods=["POST"])
        router.add_api_route("/tasks", self.task, methods=["POST"])
        return router

    async def models(self, request: Request):
        await self.door.enter(request, "user")
        return answer_json({"object": "list", "data": [{"id": MODEL, "object": "model", "owned_by": "rayrlhf"}]})

    async def chat(self, request: Request):
        token = await self.door.enter(request, "user")
        body = json.loads(await self.door.read(request))
        assert body["stream"] is True
        self.asked.append(body)
        return StreamingResponse(self.stream(body["messages"], token.user), media_type="text/event-stream")

    async def stream(self, messages, user):
        question = messages[-1]["content"]
        text = "" if "SILENT" in question else self.say(question, 0)
        for start in range(0, len(text), 4):
            yield event({"choices": [{"index": 0, "delta": {"content": text[start : start + 4]}}]})
            await asyncio.sleep(0.2 if "SLOW" in question else 0)
            if "BREAK" in question and start >= 8:
                yield event(
                    {"error": {"message": "the replica is gone", "type": "server_error", "code": "stream_broken"}}
                )
                return
        version = self.versions[0]
        signed = {"policy_version": version, "response_ids": [self.record(messages, text, user, version)]}
        yield event({"choices": [], "rayrlhf": signed})
        yield "data: [DONE]\n\n"

    async def task(self, request: Request):
        token = await self.door.enter(request, "labeller")
        body = json.loads(await self.door.read(request))
        messages = body["messages"]
        ids = [
            self.record(messages, self.say(messages[-1]["content"], n), token.user, self.versions[n % 2])
            for n in range(body["answers"])
        ]
        return answer_json(show_task(self.service.store.lease_answers(token.user, ids)), status=201)

    def record(self, messages, text, user, version):
        return self.service.record_answer(messages, text, Origin(version, MODEL, {"temperature": 0.7}, user))


def event(content):
    return f"data: {json.dumps(content)}\n\n"


class FakeSite:
    """A running site."""

    def __init__(self, service, limits=None):
        self.service = service
        self.door = Door(service.tokens, limits or Limits(requests_per_minute=60_000, burst=1_000), service.store.clock)
        self.chat = FakeChat(service, self.door)
        self.app = FastAPI()
        for router in (page_router(), self.chat.router(), feedback_router(service, self.door)):
            self.app.include_router(router)

    def token(self, user, role):
        return self.service.tokens.issue(user, role, 30)


@contextmanager
def running(site):
    """The site's address while it is served on loopback."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(site.app, log_level="warning", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(timeout=30)
