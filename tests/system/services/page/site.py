"""A whole service on loopback, real but for the policy: its HTTP app, its store, and answers that a test can foresee.

The last message says how it is answered: one that holds BREAK breaks off, SILENT is an empty answer, SLOW takes long.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections import Counter
from contextlib import contextmanager

import uvicorn

from rayrlhf.serving.answering import DONE, ReplicaLostError
from rayrlhf.serving.http_app import http_app
from rayrlhf.serving.settings import ServiceSettings
from tests.serving_fakes import chunk

MODEL = "chat-ppo"


class EchoPolicies:
    """Two slots of two versions; `say` gives the text of the n-th answer to a question."""

    def __init__(self):
        self.versions = {"a": 1, "b": 2}
        self.say = lambda question, number: f"{number + 1}. You asked: {question}"
        self.asked = []
        self._times = Counter()

    @property
    def slots(self):
        return list(self.versions)

    def slot_of(self, user):
        return "a"

    async def parts(self, kind, body, slot):
        self.asked.append(dict(body))
        question = body["messages"][-1]["content"]
        text = "" if "SILENT" in question else self.say(question, self._times[question])
        self._times[question] += 1
        yield {"version": self.versions[slot]}
        if not body.get("stream"):
            choice = {"index": 0, "message": {"role": "assistant", "content": text}}
            yield {"id": "c1", "object": "chat.completion", "created": 1, "model": MODEL, "choices": [choice]}
            return
        # As an engine does, an empty event comes first.
        for start in range(-4, len(text), 4):
            if "BREAK" in question and start > 8:
                raise ReplicaLostError("killed")
            yield chunk(text[max(start, 0) : start + 4])
            await asyncio.sleep(0.2 if "SLOW" in question else 0)
        yield DONE


class Site:
    """A service with its app."""

    def __init__(self, service, **settings):
        self.service, self.policies = service, EchoPolicies()
        chosen = {"name": MODEL, "requests_per_minute": 60_000, "burst": 1_000} | settings
        self.app = http_app(ServiceSettings.model_validate(chosen), service, self.policies)

    def token(self, user, role):
        return self.service.tokens.issue(user, role, 30)


@contextmanager
def running(site):
    """The site's address while it is served."""
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
