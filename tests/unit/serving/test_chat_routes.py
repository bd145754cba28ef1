import json

import pytest
from starlette.testclient import TestClient

from tests.serving_fakes import FakePolicies, Served, events_of

ASK = {"model": "policy", "messages": [{"role": "user", "content": "Why?"}]}


@pytest.fixture
def serve(tmp_path):
    made = []

    def make(**settings):
        policies = FakePolicies(**settings.pop("policies", {}))
        made.append(Served(tmp_path, policies, **settings))
        return made[-1]

    yield make
    for served in made:
        served.service.close()


def chat(client, **changes):
    return client.post("/v1/chat/completions", json=ASK | changes)


def ids_of(response):
    return response.json()["rayrlhf"]["response_ids"]


def test_an_answer_has_an_id_that_takes_feedback_and_the_version_that_wrote_it(serve):
    served = serve()
    client = served.client()
    response = chat(client, temperature=0.5)
    assert response.json()["choices"][0]["message"]["content"] == "Because it is so."
    assert response.headers["X-Policy-Version"] == "3"
    assert response.json()["rayrlhf"]["policy_version"] == 3
    [response_id] = ids_of(response)
    stored = served.service.store.answer(response_id)
    assert (stored.text, stored.policy_version, stored.user) == ("Because it is so.", 3, "the user")
    assert stored.sampling == {"temperature": 0.5}
    vote = {"kind": "thumb", "value": "up", "response_id": response_id, "idempotency_key": "1"}
    assert client.post("/v1/feedback", json=vote).status_code == 201


def test_each_choice_has_an_id_of_its_own(serve):
    served = serve(policies={"answers": ("One.", "Two.", "Three.")})
    ids = ids_of(chat(served.client(), n=3))
    assert [served.service.store.answer(i).text for i in ids] == ["One.", "Two.", "Three."]


def test_a_stream_ends_with_the_ids_of_what_it_said(serve):
    served = serve(policies={"answers": ("It is so.", "It is not.")})
    response = chat(served.client(), stream=True, n=2)
    assert response.headers["content-type"].startswith("text/event-stream")
    *_, signed, done = events_of(response)
    assert done == "[DONE]"
    last = json.loads(signed)
    assert (last["choices"], last["id"], last["rayrlhf"]["policy_version"]) == ([], "c1", 3)
    texts = [served.service.store.answer(i).text for i in last["rayrlhf"]["response_ids"]]
    assert texts == ["It is so. ", "It is not. "]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("lost", "after"), [(2, 0), (1, 1)])
def test_a_replica_that_dies_before_it_said_something_is_not_noticed(serve, stream, lost, after):
    served = serve(policies={"lost": lost, "after": after})
    response = chat(served.client(), stream=stream)
    assert response.status_code == 200
    assert len(served.policies.asked) == lost + 1
    assert "error" not in response.text


def test_a_request_that_replicas_die_of_is_given_to_two_of_them(serve):
    served = serve(policies={"lost": 99, "after": 1})
    assert chat(served.client()).status_code == 503
    assert len(served.policies.asked) == 2


def test_a_stream_that_breaks_ends_with_an_error_event_and_without_an_id(serve):
    served = serve(policies={"lost": 1, "after": 3})
    *said, error = events_of(chat(served.client(), stream=True))
    assert [json.loads(e)["choices"][0]["delta"]["content"] for e in said] == ["Because ", "it "]
    assert json.loads(error)["error"]["code"] == "stream_broken"
    assert not served.service.store.snapshot().answers


def test_when_no_replica_answers_the_client_is_told_when_to_come_back(serve):
    response = chat(serve(policies={"lost": 99}).client())
    assert (response.status_code, response.headers["Retry-After"]) == (503, "5")
    assert response.json()["error"]["code"] == "policy_unavailable"


def test_what_the_engine_refuses_is_passed_on_with_its_status(serve):
    error = {"message": "too long", "type": "BadRequestError", "code": 400}
    for stream in (False, True):
        response = chat(serve(policies={"error": error}).client(), stream=stream)
        assert (response.status_code, response.json()["error"]["message"]) == (400, "too long")


@pytest.mark.parametrize(
    "changes",
    [
        {"messages": []},
        {"messages": "hi"},
        {"messages": [{"role": "robot", "content": "hi"}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
        {"messages": [{"role": "user"}]},
        {"messages": [{"role": "user", "content": "a\0b"}]},
        {"n": 10_000},
        {"n": 0},
        {"stream": "yes"},
    ],
)
def test_a_wrong_request_is_refused_before_the_policy_is_asked(serve, changes):
    served = serve()
    assert chat(served.client(), **changes).status_code == 400
    assert served.policies.asked == []


def test_text_in_parts_and_the_developer_role_are_understood(serve):
    served = serve()
    parts = [{"type": "text", "text": "Why "}, {"type": "text", "text": "so?"}]
    messages = [{"role": "developer", "content": "Be kind."}, {"role": "user", "content": parts}]
    [response_id] = ids_of(chat(served.client(), messages=messages))
    turns = served.service.store.answer(response_id).conversation
    assert [(turn.role, turn.content) for turn in turns] == [("system", "Be kind."), ("user", "Why so?")]


def test_another_model_is_not_there(serve):
    client = serve(name="chat").client()
    assert chat(client).status_code == 404
    assert [card["id"] for card in client.get("/v1/models").json()["data"]] == ["chat"]
    assert client.get("/v1/models/chat").json()["id"] == "chat"
    assert client.get("/v1/models/other").status_code == 404


def test_a_completion_is_remembered_as_one(serve):
    served = serve()
    response = served.client().post("/v1/completions", json={"model": "policy", "prompt": "Once"})
    stored = served.service.store.answer(ids_of(response)[0])
    assert stored.sampling == {"endpoint": "completions"}


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/tasks"])
def test_nobody_comes_in_without_a_token(serve, path):
    client = TestClient(serve().app)
    assert client.post(path, json=ASK).status_code == 401
    assert client.post(path, json=ASK, headers={"Authorization": "Bearer rf-wrong"}).status_code == 401
    assert client.get("/v1/models").status_code == 401


def test_a_body_that_is_too_large_is_not_read(serve):
    response = chat(serve().client(), messages=[{"role": "user", "content": "x" * 300_000}])
    assert response.status_code == 413


def test_a_user_who_asks_too_often_is_told_to_wait(serve):
    client = serve(burst=3, requests_per_minute=1.0).client()
    statuses = [chat(client).status_code for _ in range(5)]
    assert statuses == [200, 200, 200, 429, 429]


def test_a_task_is_made_of_new_answers_of_both_versions(serve):
    served = serve(policies={"answers": [f"Answer {n}." for n in range(9)], "canary": 4})
    response = served.client("labeller").post("/v1/tasks", json={"messages": ASK["messages"], "answers": 4})
    assert response.status_code == 201
    task = response.json()
    assert sorted(answer["text"] for answer in task["answers"]) == [f"Answer {n}." for n in range(4)]
    versions = [served.service.store.answer(a["response_id"]).policy_version for a in task["answers"]]
    assert sorted(versions) == [3, 3, 4, 4]
    assert "version" not in response.text


def test_a_policy_that_always_says_the_same_makes_no_task(serve):
    response = serve().client("labeller").post("/v1/tasks", json={"messages": ASK["messages"]})
    assert (response.status_code, response.json()["error"]["code"]) == (409, "too_few_answers")


def test_only_labellers_make_tasks(serve):
    assert serve().client("user").post("/v1/tasks", json={"messages": ASK["messages"]}).status_code == 403


def test_the_canary_answers_its_users(serve):
    served = serve(policies={"canary": 4})
    assert chat(served.client(user="canary ada")).json()["rayrlhf"]["policy_version"] == 4
    assert chat(served.client(user="bob")).json()["rayrlhf"]["policy_version"] == 3


def test_health_asks_the_policy_and_needs_no_token(serve):
    served = serve()
    client = TestClient(served.app)
    assert [client.get("/health").status_code for _ in range(5)] == [200] * 5
    assert len(served.policies.asked) == 1, "what everybody may ask for costs one answer in a while"
    broken = TestClient(serve(policies={"lost": 99}).app).get("/health")
    assert (broken.status_code, broken.json()["error"]["code"]) == (503, "unhealthy")


def test_what_is_not_there_is_said_in_json(serve):
    assert TestClient(serve().app).get("/v1/nothing").json()["error"]["code"] == "not_found"


def test_a_bug_is_told_in_the_shape_that_clients_read_and_health_survives_it(serve):
    served = serve(policies={"lost": 1, "after": 0, "with_error": KeyError})
    response = chat(served.client())
    assert (response.status_code, response.json()["error"]["type"]) == (500, "server_error")
    served.policies.lost = 1
    broken = TestClient(served.app).get("/health")
    assert broken.json()["error"]["message"] == "KeyError"
