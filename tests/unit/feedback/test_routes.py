import asyncio
import json
import threading
import time

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from rayrlhf.access.door import Door
from rayrlhf.access.limits import Limits, RateLimiter
from rayrlhf.feedback.caps import Caps
from rayrlhf.feedback.routes import feedback_router
from tests.unit.feedback.people import Clock, ask, key, service_at

HOSTILE = [
    "<script>alert('x')</script><img src=x onerror=alert(1)>",
    "'; DROP TABLE feedback_answers; --",
    '" OR 1=1 --',
    "${jndi:ldap://x} {{7*7}} %s %n \\u0041 ../../etc/passwd `id` $(id)",
    "\u202eright to left\u202c \ufeff \u2028 \x01\x7f \U0001f600 ﷽",
    "=cmd|' /C calc'!A0",
]
PATHS = [
    ("POST", "/v1/feedback"),
    ("POST", "/v1/comparisons"),
    ("GET", "/v1/tasks/next"),
    ("GET", "/v1/progress"),
    ("GET", "/v1/overview"),
]


class Caller:
    """A client with a token."""

    def __init__(self, app, token):
        self.client = TestClient(app, headers={"Authorization": f"Bearer {token}"} if token else {})

    def post(self, path, body):
        return self.client.post(path, json=body)

    def get(self, path):
        return self.client.get(path)


@pytest.fixture
def people(service):
    return callers(service)


def callers(service, limits=None):
    door = Door(service.tokens, limits or Limits(burst=1_000), service.store.clock)
    app = FastAPI()
    app.include_router(feedback_router(service, door))
    tokens = {role: service.tokens.issue(f"the {role}", role, 36_500) for role in ("user", "labeller", "admin")}
    return {role: Caller(app, token) for role, token in tokens.items()} | {"nobody": Caller(app, None)}


def vote(response_id, **changes):
    return {"kind": "thumb", "value": "up", "response_id": response_id, "idempotency_key": key()} | changes


def error_of(response):
    assert set(response.json()) == {"error"}
    error = response.json()["error"]
    assert set(error) == {"message", "type", "code"}
    return error


def test_a_first_post_is_201_and_its_repeat_200_with_the_same_id(service, people):
    [answer] = ask(service, "Why?", "Because.")
    post = vote(answer)
    first, second = people["user"].post("/v1/feedback", post), people["user"].post("/v1/feedback", post)
    assert (first.status_code, second.status_code) == (201, 200)
    assert first.json() == {"object": "feedback", "id": second.json()["id"], "created": True}


def test_progress_says_who_asks_and_what_they_may(people):
    for role in ("user", "labeller", "admin"):
        progress = people[role].get("/v1/progress").json()
        assert (progress["user"], progress["role"]) == (f"the {role}", role)


def test_every_kind_of_feedback_is_taken(service, people):
    [answer] = ask(service, "Why?", "Because.")
    for changes in (
        {"value": "down"},
        {"kind": "rating", "value": 5},
        {"kind": "flag", "value": None, "reason": "harmful", "note": "n"},
        {"kind": "correction", "value": None, "text": "Since."},
    ):
        body = {name: value for name, value in vote(answer, **changes).items() if value is not None}
        assert people["user"].post("/v1/feedback", body).status_code == 201


def test_a_task_is_shown_judged_and_counted(service, people):
    ask(service, "Why?", "1", "2", "3", version=4)
    task = people["labeller"].get("/v1/tasks/next?answers=3").json()
    assert task["messages"] == [{"role": "user", "content": "Why?"}]
    ids = [answer["response_id"] for answer in task["answers"]]
    body = {"response_ids": ids, "ranks": [2, 1, 1], "task_id": task["task_id"], "idempotency_key": key()}
    assert people["labeller"].post("/v1/comparisons", body).status_code == 201
    assert people["labeller"].get("/v1/tasks/next?answers=3").status_code == 204
    assert people["labeller"].get("/v1/progress").json()["comparisons"] == 1
    overview = people["admin"].get("/v1/overview").json()
    assert (overview["counts"]["rankings"], overview["counts"]["with_ties"]) == (1, 1)


def test_a_task_does_not_tell_which_policy_wrote_what(service, people):
    ask(service, "Why?", "1", version=4)
    ask(service, "Why?", "2", version=5)
    task = people["labeller"].get("/v1/tasks/next").json()
    assert set(task) == {"object", "task_id", "messages", "answers", "leased_until"}
    assert all(set(answer) == {"response_id", "text"} for answer in task["answers"])


@pytest.mark.parametrize(("method", "path"), PATHS)
def test_without_a_token_everything_is_401(people, method, path):
    response = people["nobody"].client.request(method, path)
    assert response.status_code == 401
    assert error_of(response)["code"] == "missing_token"
    assert response.headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize(("method", "path"), PATHS)
def test_with_an_unknown_or_expired_token_everything_is_401(service, clock, people, method, path):
    expired = service.tokens.issue("late", "admin", 1)
    clock.advance(days=36_000)
    for token in (expired, "rf-unknown"):
        response = people["nobody"].client.request(method, path, headers={"Authorization": f"Bearer {token}"})
        assert response.status_code == 401
        assert error_of(response) == {
            "message": "the token is not valid",
            "type": "authentication_error",
            "code": "invalid_token",
        }


def test_a_role_that_is_not_enough_is_403(people):
    for role, method, path in (
        ("user", "POST", "/v1/comparisons"),
        ("user", "GET", "/v1/tasks/next"),
        ("labeller", "GET", "/v1/overview"),
    ):
        response = people[role].client.request(method, path)
        assert response.status_code == 403
        assert error_of(response)["type"] == "permission_error"


def test_forged_ids_are_400_and_leave_nothing(service, people):
    a, b = ask(service, "Why?", "Because.", "Since.")
    for forged in ("made up", a[:-1], a[:-1] + ("A" if a[-1] != "A" else "B"), ".".join([*a.split(".")[:4], b[-43:]])):
        response = people["user"].post("/v1/feedback", vote(forged))
        assert response.status_code == 400
        assert error_of(response)["code"] == "invalid_response_id"
        body = {"response_ids": [a, forged], "ranks": [1, 2], "idempotency_key": key()}
        assert people["labeller"].post("/v1/comparisons", body).status_code == 400
    assert service.store.snapshot().opinions == service.store.snapshot().comparisons == ()


@pytest.mark.parametrize("hostile", HOSTILE)
def test_html_and_sql_are_kept_as_given_and_come_back_as_json(service, people, hostile):
    a, b = ask(service, hostile, hostile, f"{hostile}!", user=hostile)
    correction = {"kind": "correction", "text": hostile, "response_id": a, "idempotency_key": hostile}
    assert people["user"].post("/v1/feedback", correction).status_code == 201
    note = {"kind": "flag", "reason": "other", "note": hostile, "response_id": a, "idempotency_key": f"{hostile}2"}
    assert people["user"].post("/v1/feedback", note).status_code == 201
    for field in ("response_id", "task_id", "kind", "value", "reason", "extra"):
        response = people["user"].post("/v1/feedback", vote(a) | {field: hostile})
        assert response.status_code == 400
        assert hostile not in response.text
    body = {"response_ids": [a, b], "ranks": [1, 2], "task_id": hostile, "idempotency_key": hostile}
    assert people["labeller"].post("/v1/comparisons", body).status_code == 404
    assert people["labeller"].get(f"/v1/tasks/next?answers={hostile[:3]}").status_code == 400
    task = people["labeller"].get("/v1/tasks/next")
    assert task.headers["content-type"] == "application/json"
    assert task.headers["x-content-type-options"] == "nosniff"
    assert task.json()["messages"][0]["content"] == hostile
    snapshot = service.store.snapshot()
    assert [vote.text for vote in snapshot.opinions] == [hostile, hostile]
    assert len(snapshot.answers) == 2


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b'{"text": "\\ud800"}', b"[" * 50_000])
def test_a_body_that_is_no_post_is_400(people, body):
    response = people["labeller"].client.post("/v1/feedback", content=body)
    assert response.status_code == 400
    assert error_of(response)["type"] == "invalid_request_error"


def test_a_long_body_is_413_when_it_announces_itself_and_when_it_does_not(sqlite_service):
    labeller = callers(sqlite_service, Limits(body_bytes=1_000))["labeller"].client
    assert labeller.post("/v1/feedback", content=b"x" * 1_001).status_code == 413
    sent = []

    def endless():
        for _ in range(1_000):
            sent.append(1)
            yield b"x" * 100

    response = labeller.post("/v1/comparisons", content=endless())
    assert response.status_code == 413
    assert error_of(response)["code"] == "body_too_large"


def test_a_body_is_not_read_beyond_the_cap(sqlite_service):
    received = asyncio.run(_send_forever(sqlite_service))
    assert received <= 12


async def _send_forever(service):
    """An ASGI client whose body never ends; how many chunks were taken."""
    app = FastAPI()
    app.include_router(feedback_router(service, Door(service.tokens, Limits(body_bytes=1_000), service.store.clock)))
    token = service.tokens.issue("ada", "user", 36_500)
    headers = [(b"authorization", f"Bearer {token}".encode())]
    scope = {"type": "http", "method": "POST", "path": "/v1/feedback", "raw_path": b"", "query_string": b"",
             "headers": headers, "http_version": "1.1", "scheme": "http", "server": ("x", 80)}  # fmt: skip
    count, statuses = 0, []

    async def receive():
        nonlocal count
        count += 1
        return {"type": "http.request", "body": b"x" * 100, "more_body": True}

    async def send(message):
        statuses.append(message.get("status"))

    await app(scope, receive, send)
    assert statuses[0] == 413
    return count


def test_a_body_that_does_not_arrive_is_408(sqlite_service):
    async def slow():
        app = FastAPI()
        app.include_router(
            feedback_router(
                sqlite_service, Door(sqlite_service.tokens, Limits(body_timeout_s=0.05), sqlite_service.store.clock)
            )
        )
        token = sqlite_service.tokens.issue("ada", "user", 36_500)
        scope = {"type": "http", "method": "POST", "path": "/v1/feedback", "raw_path": b"", "query_string": b"",
                 "headers": [(b"authorization", f"Bearer {token}".encode())], "http_version": "1.1",
                 "scheme": "http", "server": ("x", 80)}  # fmt: skip
        statuses = []

        async def send(message):
            statuses.append(message.get("status"))

        await app(scope, lambda: asyncio.sleep(60), send)
        return statuses[0]

    assert asyncio.run(slow()) == 408


def test_a_user_who_sends_too_much_is_429_with_the_time_to_wait(sqlite_service):
    people = callers(sqlite_service, Limits(requests_per_minute=6, burst=2))
    assert [people["user"].get("/v1/progress").status_code for _ in range(3)] == [200, 200, 429]
    refused = people["user"].get("/v1/progress")
    assert 1 <= int(refused.headers["Retry-After"]) <= 10
    assert error_of(refused) == {
        "message": f"too many requests; the next one is welcome in {refused.headers['Retry-After']} s",
        "type": "rate_limit_error",
        "code": "rate_limited",
    }
    assert people["labeller"].get("/v1/progress").status_code == 200


def test_a_bucket_fills_again_with_time():
    clock = Clock()
    limiter = RateLimiter(Limits(requests_per_minute=60, burst=2), lambda: clock.now.timestamp())
    for advance in (0, 0, 1, 1, 5, 0):
        clock.advance(seconds=advance)
        limiter.take("ada")
    with pytest.raises(Exception, match="in 1 s"):
        limiter.take("ada")


def test_the_cap_of_a_day_is_429_with_the_time_to_wait(tmp_path, clock):
    with service_at(str(tmp_path / "feedback.db"), tmp_path, clock, caps=Caps(posts_per_day=1)) as service:
        a, b = ask(service, "Why?", "Because.", "Since.")
        user = callers(service)["user"]
        assert user.post("/v1/feedback", vote(a)).status_code == 201
        refused = user.post("/v1/feedback", vote(b))
        assert (refused.status_code, refused.headers["Retry-After"]) == (429, str(12 * 3600 + 1))


def test_a_store_that_is_away_is_503_and_tells_nothing(sqlite_service):
    [answer] = ask(sqlite_service, "Why?", "Because.")
    people = callers(sqlite_service)
    with sqlite_service.store.database.write("x") as connection:
        connection.exec_driver_sql("ALTER TABLE feedback_posts RENAME TO gone")
    response = people["user"].post("/v1/feedback", vote(answer, idempotency_key="secret"))
    assert response.status_code == 503
    assert error_of(response)["code"] == "store_unavailable"
    assert "gone" not in response.text
    assert "posts" not in response.text
    assert response.headers["Retry-After"] == "5"


def test_a_slow_write_does_not_hold_up_the_event_loop(sqlite_service):
    [answer] = ask(sqlite_service, "Why?", "Because.")
    people = callers(sqlite_service)
    done = []
    with people["user"].client as user:
        with sqlite_service.store.database.write("x"):
            writing = threading.Thread(target=lambda: done.append(user.post("/v1/feedback", json=vote(answer))))
            writing.start()
            time.sleep(0.1)
            # Both run on one event loop: this one is answered while that one waits for the database.
            assert user.get("/v1/progress").status_code == 200
            assert not done
        writing.join(timeout=30)
    assert done[0].status_code == 201


def test_two_hundred_repeats_over_http_are_one_record(service, people):
    [answer] = ask(service, "Why?", "Because.")
    body = json.dumps(vote(answer)).encode()
    replies = []

    def send():
        replies.extend(people["user"].client.post("/v1/feedback", content=body) for _ in range(20))

    threads = [threading.Thread(target=send) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(reply.status_code for reply in replies) == [200] * 199 + [201]
    assert len({reply.json()["id"] for reply in replies}) == 1
