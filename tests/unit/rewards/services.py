"""Reward services on real sockets: the real routes over a scorer that does what the text says, and a scripted one."""

import asyncio
import json
import threading
import time
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI

from rayrlhf.access.door import Door
from rayrlhf.access.tokens import TokenFile
from rayrlhf.rewards.remote import Pace, RemoteReward, RemoteService
from rayrlhf.rewards.requests import RewardRequest
from rayrlhf.rewards.wire import ServedModel
from rayrlhf.serving.reward_routes import LIMITS, reward_router
from rayrlhf.serving.scoring_lane import ScoringLane
from rayrlhf.types import Message, Reward

SERVED = ServedModel(model="tests/letters", digest="d1")
SLOW_S = 1.5


def request(response, **changes):
    fields = {"finish_reason": "stop", "answer": None, "metadata": {}} | changes
    return RewardRequest((Message(role="user", content="Why?"),), response, **fields)


def requests(*responses):
    return [request(response) for response in responses]


class Letters:
    """Scores by length, `together` requests at a time; some words are orders."""

    def __init__(self, together=4, each_s=0.0):
        self.together, self.each_s = together, each_s
        self.last_failure = ""
        self.scored = []
        self.release = threading.Event()

    def parts(self, requests):
        if any(one.response == "unreadable" for one in requests):
            raise ValueError("no template takes this")
        places = list(range(len(requests)))
        return [places[i : i + self.together] for i in range(0, len(places), self.together)]

    def score(self, requests):
        self.scored.append([one.response for one in requests])
        time.sleep(self.each_s)
        return [self._score(one.response) for one in requests]

    def _score(self, response):
        match response:
            case "slow":
                time.sleep(SLOW_S)
            case "hang":
                self.release.wait(30)
            case "raise" | "unreadable":
                raise RuntimeError(f"{response}: out of memory")
            case "nan":
                self.last_failure = "the reward model's score is nan"
                return Reward(None, {}, "error")
        return Reward(length(response), {"reward_model": length(response)}, "ok")

    def close(self):
        self.release.set()


def length(response):
    return len(response) / 8


@contextmanager
def listening(app, port=0):
    """The URL of an ASGI app in a thread of its own."""
    config = uvicorn.Config(app, host="127.0.0.1", port=port, log_level="critical", lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = server.force_exit = True
        thread.join(10)


def letters_app(folder, source, served=SERVED, limits=LIMITS, max_queued=4096, **lane):
    """The real routes, and a token that may use them."""
    tokens = TokenFile(folder / "tokens.json")
    lane = ScoringLane(source, **lane)
    app = FastAPI()
    app.include_router(reward_router(lane, served, Door(tokens, limits), max_queued))
    return app, tokens.issue("a run", "user", 1)


def remote(url, token=None, timeout_s=5.0, queue_timeout_s=20.0, served=SERVED):
    return RemoteReward(RemoteService(url, token, served), timeout_s, queue_timeout_s, Pace(0.01, 0.05))


class Scripted:
    """An ASGI app that does to each request what comes next, and from then on the last of it.

    An act is a function of the posted body; it returns (status, headers, body), or a coroutine function of `send`.
    """

    def __init__(self, *acts):
        self.acts = list(acts)
        self.posts = []
        self.times = []
        self.headers = []

    async def __call__(self, scope, receive, send):
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        self.times.append(time.monotonic())
        self.headers.append(dict(scope["headers"]))
        self.posts.append(json.loads(body or b"{}"))
        act = self.acts.pop(0) if len(self.acts) > 1 else self.acts[0]
        done = act(self.posts[-1])
        if callable(done):
            await done(send)
            return
        status, headers, content = done
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": content})

    def batches(self):
        return [[item["response"] for item in post["items"]] for post in self.posts]


def item_of(item, **changes):
    value = length(item["response"])
    return {"id": item["id"], "status": "ok", "value": value, "components": {"letters": value}} | changes


def answers(change=lambda items: items, **changes):
    """An act: a good answer, with something changed in it."""

    def act(post):
        content = {"object": "rewards", "model": "m", "digest": "d1", "items": [item_of(i) for i in post["items"]]}
        content |= changes
        return 200, [], json.dumps(content | {"items": change(content["items"])}).encode()

    return act


def refuses(status, message="no", code="no", retry_after=None):
    headers = [] if retry_after is None else [(b"retry-after", str(retry_after).encode())]
    return lambda post: (status, headers, json.dumps({"error": {"message": message, "code": code}}).encode())


def says(body, status=200, headers=()):
    return lambda post: (status, list(headers), body)


def cut(post):
    """Half an answer, and the connection is closed."""

    async def run(send):
        headers = [(b"content-length", b"1000")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b'{"object": "rewards", "it', "more_body": True})
        raise ConnectionError("cut on purpose")

    return run


def trickles(post):
    """A byte now and then, for ever."""

    async def run(send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while True:
            await send({"type": "http.response.body", "body": b" ", "more_body": True})
            await asyncio.sleep(0.05)

    return run
