from concurrent.futures import ThreadPoolExecutor

import pytest
from starlette.testclient import TestClient

from rayrlhf.access.limits import Limits
from rayrlhf.rewards.wire import ServedModel
from tests.unit.rewards.services import SERVED, Letters, letters_app

MODEL = "/v1/rewards/model"


def item(id_="a", response="abcd", **changes):
    return {"id": id_, "messages": [{"role": "user", "content": "Why?"}], "response": response} | changes


@pytest.fixture
def client(tmp_path):
    def make(source=None, token=None, **settings):
        app, issued = letters_app(tmp_path, source or Letters(), **settings)
        return TestClient(app, headers={"Authorization": f"Bearer {token or issued}"})

    return make


def error_of(response, status):
    assert response.status_code == status
    return response.json()["error"]["code"], response.json()["error"]["message"]


def test_the_model_says_what_it_is_and_how_much_it_takes(client):
    assert client().get(MODEL).json() == SERVED.model_dump()


def test_items_are_scored_in_order(client):
    with client() as caller:
        answer = caller.post("/v1/rewards", json={"items": [item("b", "xx"), item("a")], "timeout_s": 3}).json()
    assert [(one["id"], one["status"], one["value"]) for one in answer["items"]] == [
        ("b", "ok", 0.25),
        ("a", "ok", 0.5),
    ]
    assert (answer["model"], answer["digest"]) == (SERVED.model, SERVED.digest)


@pytest.mark.parametrize(("method", "path"), [("POST", "/v1/rewards"), ("GET", MODEL)])
def test_without_a_valid_token_everything_is_401(client, method, path):
    assert error_of(client(token="rf-unknown").request(method, path), 401)[0] == "invalid_token"
    caller = client()
    del caller.headers["Authorization"]
    assert error_of(caller.request(method, path), 401)[0] == "missing_token"


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ({"items": []}, "items"),
        ({"items": [item(), item()]}, "items: two have the same id"),
        ({"items": [item(response=1)]}, "items.0.response"),
        ({"items": [item(finish_reason="bored")]}, "items.0.finish_reason"),
        ({"items": [item(messages=[{"role": "user"}])]}, "items.0.messages.0.content"),
        ({"items": [item(extra=1)]}, "items.0.extra"),
        ({"items": [item()], "timeout_s": 0}, "timeout_s"),
        ({"items": [item()], "timeout_s": 1e9}, "timeout_s"),
        ({}, "items"),
    ],
)
def test_a_body_that_is_wrong_is_400_with_the_place(client, body, place):
    code, message = error_of(client().post("/v1/rewards", json=body), 400)
    assert code == "invalid_body"
    assert message.startswith(place)


def test_too_many_items_and_too_large_a_body_are_413(client):
    served = ServedModel(model="m", digest="d", max_items=2)
    caller = client(served=served, limits=Limits(body_bytes=2_000))
    assert (
        error_of(caller.post("/v1/rewards", json={"items": [item(str(i)) for i in range(3)]}), 413)[0]
        == "too_many_items"
    )
    assert (
        error_of(caller.post("/v1/rewards", json={"items": [item(response="x" * 3_000)]}), 413)[0] == "body_too_large"
    )


def test_when_too_many_items_wait_the_next_are_told_when_to_come_again(client):
    with client(Letters(together=1, each_s=0.5), max_queued=3) as caller, ThreadPoolExecutor() as pool:
        posts = [pool.submit(caller.post, "/v1/rewards", json={"items": [item("a"), item("b")]}) for _ in range(3)]
        answers = [post.result() for post in posts]
        assert sorted(answer.status_code for answer in answers) == [200, 503, 503]
        refused = next(answer for answer in answers if answer.status_code == 503)
        assert error_of(refused, 503)[0] == "overloaded"
        assert int(refused.headers["Retry-After"]) > 0
        assert caller.post("/v1/rewards", json={"items": [item()]}).status_code == 200


def test_more_items_than_may_wait_are_taken_when_nobody_waits(client):
    with client(max_queued=1) as caller:
        assert caller.post("/v1/rewards", json={"items": [item("a"), item("b")]}).status_code == 200


def test_a_scorer_that_is_lost_is_503_and_says_so(client):
    source = Letters()
    with client(source, grace_s=0.2) as caller:
        answer = caller.post("/v1/rewards", json={"items": [item(response="hang"), item("b")], "timeout_s": 0.1})
        source.close()
    assert error_of(answer, 503)[0] == "scorer_lost"
