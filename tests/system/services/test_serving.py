"""A served tiny policy with the real engines: OpenAI's client, exchanges under load, kills, canaries."""

import asyncio
import os
import signal
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import httpx
import openai
import pytest

from rayrlhf.data.durable import write_digests
from rayrlhf.errors import ReleaseError
from rayrlhf.runtime.cluster import metrics_urls
from tests import tiny
from tests.system.served import ASK, failed, post_feedback, running, traffic


@pytest.fixture(scope="module")
def serving(tmp_path_factory):
    with running(tmp_path_factory.mktemp("serving")) as made:
        yield made


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
    versions = Counter(outcome.version for outcome in outcomes)
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


def test_prometheus_finds_metrics_of_the_service_of_serve_and_of_the_engines(serving):
    version = int(serving.version())
    ours, serves, engines = "rayrlhf_requests_to_policies", "serve_num_http_requests", "vllm_generation_tokens"
    wanted = {f"ray_{name}_total" for name in (ours, serves, engines)}
    for _ in range(60):  # processes report every few seconds
        shown = [line.split("{", 1) for line in metrics() if "{" in line]
        releases = {float(rest.rsplit(" ", 1)[1]) for name, rest in shown if name == "ray_rayrlhf_policy_release"}
        if wanted <= {name for name, _ in shown} and version in releases:
            break
        time.sleep(1)
    assert wanted <= {name for name, _ in shown}
    assert version in releases


def metrics():
    """The lines that the cluster's nodes show."""
    return [line for url in metrics_urls() for line in httpx.get(url, timeout=30).text.splitlines() if line[:1] != "#"]


def test_an_engine_that_dies_in_a_load_is_replaced_and_the_new_release_comes_out(serving):
    engine = serving.engine()
    os.kill(engine, signal.SIGSTOP)  # so that the load has begun and not ended when the engine dies
    with ThreadPoolExecutor(1) as pool:
        death = pool.submit(lambda: (time.sleep(5), os.kill(engine, signal.SIGKILL)))
        release = serving.service.publish(serving.model("after death", 11, layers=3))
        death.result()
    assert {serving.version() for _ in range(4)} == {release.version}


def test_every_vote_that_was_acknowledged_is_stored_once_though_the_http_side_is_killed(serving):
    answers = [[serving.answer(f"voter {user}", n) for n in range(40)] for user in range(4)]
    acknowledged = []
    with ThreadPoolExecutor(4) as pool:
        done = [pool.submit(post_feedback, serving, f"voter {n}", mine, acknowledged) for n, mine in enumerate(answers)]
        while len(acknowledged) < 40:
            time.sleep(0.02)
        serving.kill_ingress()
        for future in done:
            future.result()
    stored = Counter(opinion.response_id for opinion in serving.feedback.store.snapshot().opinions)
    assert sorted(acknowledged) == sorted(i for mine in answers for i in mine)
    assert {stored[response_id] for response_id in acknowledged} == {1}
