"""Policies that answer what a test wants, and the HTTP app over them."""

from __future__ import annotations

import itertools
import json

from starlette.testclient import TestClient

from rayrlhf.feedback.service import open_service
from rayrlhf.serving.answering import DONE, ReplicaLostError
from rayrlhf.serving.http_app import http_app
from rayrlhf.serving.settings import ServiceSettings


def chunk(text, index=0):
    choice = {"index": index, "delta": {"content": text}}
    frame = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "policy"}
    return f"data: {json.dumps(frame | {'choices': [choice]})}\n\n"


class FakePolicies:
    """Answers each request with the next of `answers`; `lost` replicas die before part `after`."""

    def __init__(
        self,
        answers=("Because it is so.",),
        version=3,
        canary=None,
        lost=0,
        after=0,
        error=None,
        with_error=ReplicaLostError,
    ):
        self._answers, self.versions = itertools.cycle(answers), {"a": version} | ({"b": canary} if canary else {})
        self.lost, self.after, self.error, self.with_error, self.asked = lost, after, error, with_error, []

    @property
    def slots(self):
        return list(self.versions)

    def slot_of(self, user):
        return "b" if user.startswith("canary") else "a"

    async def parts(self, kind, body, slot):
        self.asked.append((kind, dict(body), slot))
        given = [{"version": self.versions[slot]}, *self._events(kind, body)]
        is_lost = self.lost > 0
        self.lost -= is_lost
        for number, part in enumerate(given):
            if is_lost and number == self.after:
                raise self.with_error("killed")
            yield part

    def _events(self, kind, body):
        if self.error:
            return [{"error": self.error}]
        texts = [next(self._answers) for _ in range(body.get("n") or 1)]
        if body.get("stream"):
            pieces = [(word, index) for index, text in enumerate(texts) for word in text.split(" ")]
            return [*(chunk(f"{word} ", index) for word, index in pieces), DONE]
        key = (lambda text: {"message": {"content": text}}) if kind == "chat" else (lambda text: {"text": text})
        choices = [{"index": index, "finish_reason": "stop"} | key(text) for index, text in enumerate(texts)]
        return [{"id": "c1", "object": kind, "created": 1, "model": "policy", "choices": choices}]


class Served:
    """The app over fake policies, with a client for each role."""

    def __init__(self, folder, policies=None, **settings):
        self.policies = policies or FakePolicies()
        self.service = open_service(str(folder / "feedback.db"))
        chosen = ServiceSettings.model_validate({"burst": 10_000} | settings)
        self.app = http_app(chosen, self.service, self.policies)

    def client(self, role="user", user=None):
        token = self.service.tokens.issue(user or f"the {role}", role, 30)
        return TestClient(self.app, headers={"Authorization": f"Bearer {token}"})


def events_of(response):
    """The events of a stream, without `data: `."""
    return [event.removeprefix("data: ") for event in response.text.split("\n\n") if event]
