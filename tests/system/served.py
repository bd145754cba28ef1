"""A running service of a tiny policy with the real engines, and steady traffic on it: for tests and benchmarks."""

import asyncio
import os
import signal
import time
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

import httpx
import openai
import psutil
import ray
from ray import serve

from rayrlhf.feedback.service import Origin, open_service
from rayrlhf.runtime.cluster import connect
from rayrlhf.serving.names import app_name
from rayrlhf.serving.service import Service
from rayrlhf.serving.settings import ServiceSettings
from tests import tiny
from tests.ports import free_port

ASK = {"model": "policy", "messages": [{"role": "user", "content": "Why?"}], "max_tokens": 16}


class Serving:
    """A running service and what a test does with it."""

    def __init__(self, folder, **settings):
        self.folder = folder
        port = free_port()
        chosen = {
            "directory": str(folder / "service"), "store": str(folder / "feedback.db"), "port": port, "replicas": 2,
            "cpus": 0.4, "dtype": "float32", "max_model_length": 256, "burst": 100_000, "requests_per_minute": 1e6,
        }  # fmt: skip
        settings = ServiceSettings.model_validate(chosen | settings)
        self.url = f"http://127.0.0.1:{port}"
        self.service = Service(settings, timeout_s=300)
        self.feedback = open_service(settings.store)
        self.token = self.feedback.tokens.issue("ada", "labeller", 1)

    @property
    def headers(self):
        return {"Authorization": f"Bearer {self.token}"}

    def client(self):
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=self.token, max_retries=0, timeout=120)

    def version(self, user=None):
        token = self.feedback.tokens.issue(user, "user", 1) if user else self.token
        headers = {"Authorization": f"Bearer {token}"}
        response = httpx.post(f"{self.url}/v1/chat/completions", headers=headers, json=ASK, timeout=120)
        assert response.status_code == 200, response.text
        return response.json()["rayrlhf"]["policy_version"]

    def model(self, name, seed, **more):
        return tiny.write_policy(self.folder / name, seed=seed, **more)

    def replica(self):
        """The process of one replica of the policy that answers, not of one that is being replaced."""
        application = app_name(self.service.book.read().primary.slot)
        return _pids(f"ServeReplica:{application}")[0]

    def engine(self):
        """The process in which one replica's weights are."""
        children = psutil.Process(self.replica()).children(recursive=True)
        return next(process.pid for process in children if _title(process).startswith("VLLM::EngineCore"))

    def kill_ingress(self):
        """End the HTTP side at once."""
        for pid in _pids("ServeReplica:ingress"):
            os.kill(pid, signal.SIGKILL)

    def answer(self, user, number):
        """The id of an answer that was given to a user."""
        origin = Origin(policy_version=1, model="policy", sampling={}, user=user)
        return self.feedback.record_answer([{"role": "user", "content": f"{user} {number}?"}], "So.", origin)


@contextmanager
def running(folder, **settings):
    """A service on a cluster of its own, with a first model."""
    made = Serving(folder, **settings)
    connect()
    try:
        made.service.start(made.model("first", 0))
        yield made
    finally:
        serve.shutdown()
        ray.shutdown()
        made.feedback.close()


def post_feedback(serving, user, answers, acknowledged):
    """Vote for each answer until that is acknowledged; returns how often something was sent again."""
    token, again = serving.feedback.tokens.issue(user, "user", 1), 0
    headers = {"Authorization": f"Bearer {token}"}
    with httpx.Client(base_url=serving.url, headers=headers, timeout=30) as client:
        for response_id in answers:
            vote = {"kind": "thumb", "value": "up", "response_id": response_id, "idempotency_key": response_id}
            while not _is_stored(client, vote):
                again += 1
                time.sleep(0.2)
            acknowledged.append(response_id)
    return again


def _is_stored(client, vote):
    try:
        response = client.post("/v1/feedback", json=vote)
    except httpx.TransportError:
        return False
    assert response.status_code < 400 or response.status_code >= 500, response.text
    return response.status_code < 400


def _pids(title):
    return [process.pid for process in psutil.process_iter() if _title(process).startswith(title)]


def _title(process):
    try:
        return (process.cmdline() or [""])[0].removeprefix("ray::")
    except psutil.Error:
        return ""


@dataclass
class Outcome:
    """What became of a request."""

    status: int
    version: str | None
    text: str
    seconds: float


@asynccontextmanager
async def traffic(serving, per_s):
    """Requests at a steady rate while the block runs: every third one streamed. Yields what became of them."""
    outcomes, tasks, stopped = [], [], asyncio.Event()
    async with httpx.AsyncClient(
        base_url=serving.url, headers=serving.headers, timeout=120, limits=httpx.Limits(max_connections=None)
    ) as client:

        async def one(number):
            body, began = ASK | {"stream": number % 3 == 0}, time.monotonic()
            response = await client.post("/v1/chat/completions", json=body)
            version = response.headers.get("x-policy-version")
            outcomes.append(Outcome(response.status_code, version, response.text, time.monotonic() - began))

        async def drive():
            number = 0
            while not stopped.is_set():
                tasks.append(asyncio.create_task(one(number)))
                number += 1
                await asyncio.sleep(1 / per_s)

        driving = asyncio.create_task(drive())
        try:
            yield outcomes
        finally:
            stopped.set()
            await driving
            await asyncio.gather(*tasks)


def failed(outcomes, streams_may_break=False):
    """Requests that failed; a stream that a kill broke may, if it says so at its end."""
    wrong = [outcome.text for outcome in outcomes if outcome.status != 200]
    broken = broken_streams(outcomes)
    assert all("stream_broken" in text for text in broken)
    return wrong + ([] if streams_may_break else broken)


def broken_streams(outcomes):
    """Streams that ended with an error event."""
    return [outcome.text for outcome in outcomes if outcome.status == 200 and '"error"' in outcome.text]
