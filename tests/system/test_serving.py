"""A served tiny policy with the real engines: OpenAI's client, exchanges under load, kills, canaries."""

import asyncio
import os
import signal
import socket
from collections import Counter
from contextlib import asynccontextmanager

import httpx
import openai
import psutil
import pytest
import ray
from ray import serve

from rayrlhf.data.durable import write_digests
from rayrlhf.errors import ReleaseError
from rayrlhf.feedback.service import open_service
from rayrlhf.runtime.cluster import connect
from rayrlhf.serving.service import Service
from rayrlhf.serving.settings import ServiceSettings
from tests import tiny

ASK = {"model": "policy", "messages": [{"role": "user", "content": "Why?"}], "max_tokens": 16}


class Serving:
    """A running service and what a test does with it."""

    def __init__(self, folder):
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        settings = ServiceSettings(
            directory=str(folder / "service"), store=str(folder / "feedback.db"), port=port, replicas=2, cpus=0.4,
            dtype="float32", max_model_length=256, burst=100_000, requests_per_minute=1e6,
        )  # fmt: skip
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
        """The process of one replica."""
        [pid, *_] = [p.pid for p in psutil.process_iter() if _title(p).startswith("ServeReplica:policy-")]
        return pid


def _title(process):
    try:
        return (process.cmdline() or [""])[0].removeprefix("ray::")
    except psutil.Error:
        return ""


@pytest.fixture(scope="module")
def serving(tmp_path_factory):
    made = Serving(tmp_path_factory.mktemp("serving"))
    connect()
    made.service.start(made.model("first", 0))
    yield made
    serve.shutdown()
    ray.shutdown()
    made.feedback.close()


@asynccontextmanager
async def traffic(serving, per_s):
    """Requests at a steady rate while the block runs: every third one streamed. Yields what became of them."""
    outcomes, tasks, stopped = [], [], asyncio.Event()
    async with httpx.AsyncClient(base_url=serving.url, headers=serving.headers, timeout=120) as client:

        async def one(number):
            body = ASK | {"stream": number % 3 == 0}
            response = await client.post("/v1/chat/completions", json=body)
            outcomes.append((response.status_code, response.headers.get("x-policy-version"), response.text))

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
    wrong = [text for status, _, text in outcomes if status != 200]
    broken = [text for status, _, text in outcomes if status == 200 and '"error"' in text]
    assert all("stream_broken" in text for text in broken)
    return wrong + ([] if streams_may_break else broken)


def test_openais_client_works_unchanged(serving):
    client = serving.client()
    assert [model.id for model in client.models.list()] == ["policy"]
    assert len(client.chat.completions.create(**ASK, n=2).choices) == 2
    answer = client.chat.completions.create(**ASK, temperature=0)
    assert answer.rayrlhf["policy_version"] == 1
    *said, last = list(client.chat.completions.create(**ASK, temperature=0, stream=True))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in said if chunk.choices)
    assert text == answer.choices[0].message.content
    [response_id] = last.rayrlhf["response_ids"]
    assert serving.feedback.store.answer(response_id).text == text
    assert client.completions.create(model="policy", prompt="Once", max_tokens=4).choices[0].text is not None
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(**ASK | {"max_tokens": 10_000})
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(**ASK | {"model": "other"})


def test_weights_are_exchanged_under_load_and_a_kill_costs_no_request(serving):
    async def story():
        async with traffic(serving, per_s=5) as outcomes:
            await asyncio.sleep(3)
            for number, seed in enumerate((1, 2)):
                release = await asyncio.to_thread(serving.service.publish, serving.model(f"next{number}", seed))
            before = len(outcomes)
            os.kill(serving.replica(), signal.SIGKILL)
            while len(outcomes) < before + 30:
                await asyncio.sleep(0.2)
        return outcomes, release

    outcomes, release = asyncio.run(story())
    assert failed(outcomes, streams_may_break=True) == []
    versions = Counter(version for _, version, _ in outcomes)
    assert set(versions) == {"1", str(release.version - 1), str(release.version)}
    assert serving.version() == release.version


def test_a_damaged_model_is_refused_and_the_old_one_serves_on(serving):
    old = serving.version()
    damaged = serving.model("damaged", 5)
    write_digests(damaged)
    weights = damaged / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(ReleaseError, match=r"model\.safetensors: not what was exported"):
        serving.service.publish(damaged)
    assert serving.version() == old


def test_a_model_with_numbers_that_are_not_finite_is_refused(serving):
    old = serving.version()
    poisoned = serving.model("poisoned", 6)
    tiny.poison(poisoned)
    with pytest.raises(ReleaseError, match="was not taken"):
        serving.service.publish(poisoned)
    assert serving.version() == old
    assert {state.version for state in serving.service.states().values()} == {old}


def test_a_canary_gets_its_users_and_is_taken_away_or_promoted(serving):
    old = serving.version()
    canary = serving.service.canary(serving.model("canary", 7), share=0.5)
    users = [f"user {n}" for n in range(12)]
    first = {user: serving.version(user) for user in users}
    assert set(first.values()) == {old, canary.version}
    assert {user: serving.version(user) for user in users} == first
    serving.service.roll_back("a test")
    assert {serving.version(user) for user in users} == {old}
    canary = serving.service.canary(serving.model("canary2", 8), share=0.5)
    serving.service.promote()
    assert {serving.version(user) for user in users} == {canary.version}


def test_another_architecture_comes_in_new_replicas_without_losing_a_request(serving):
    async def story():
        async with traffic(serving, per_s=3) as outcomes:
            release = await asyncio.to_thread(serving.service.publish, serving.model("deeper", 9, layers=3))
            await asyncio.sleep(2)
        return outcomes, release

    outcomes, release = asyncio.run(story())
    assert failed(outcomes) == []
    assert serving.version() == release.version
