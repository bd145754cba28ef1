import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate

import httpx
import pytest

from rayrlhf.access.limits import Limits
from rayrlhf.rewards.remote import BATCH_ITEMS, BROKEN_MOST, Pace
from rayrlhf.rewards.wire import SCORER_LOST, ServedModel
from tests.ports import free_port
from tests.unit.rewards.services import (
    SERVED,
    SLOW_S,
    Letters,
    Scripted,
    answers,
    cut,
    length,
    letters_app,
    listening,
    refuses,
    remote,
    request,
    requests,
    says,
    trickles,
)

WORDS = ("a", "bb", "ccc", "dddd", "eeeee")


def statuses(rewards):
    return [reward.status for reward in rewards]


def values(rewards):
    return [reward.value for reward in rewards]


def score(app, *responses, **settings):
    """Scores of a scripted service, the reason of the last failure, and how long it took."""
    began = time.monotonic()
    with listening(app) as url:
        source = remote(url, **settings)
        rewards = source.score(requests(*responses))
        source.close()
    return rewards, source.last_failure, time.monotonic() - began


@pytest.fixture
def letters(tmp_path):
    """Scores of the real routes; `source` and the app's settings can be chosen."""

    def run(*responses, source=None, app=None, **settings):
        source = source or Letters()
        served, token = letters_app(tmp_path, source, **(app or {}))
        with listening(served) as url:
            reward = remote(url, token, **settings)
            rewards = reward.score(requests(*responses))
        source.close()
        return rewards, reward.last_failure

    return run


def test_every_answer_gets_its_own_score_whatever_batch_it_is_in(letters):
    words = ["x" * (i % 37) for i in range(3 * BATCH_ITEMS + 5)]
    rewards, failure = letters(*words)
    assert values(rewards) == [length(word) for word in words]
    assert {tuple(reward.components) for reward in rewards} == {("reward_model",)}
    assert failure == ""


def test_no_answers_are_no_request():
    with listening(Scripted(answers())) as url:
        assert remote(url).score([]) == []


def test_numbers_come_back_to_the_last_bit(letters):
    class Exact(Letters):
        def _score(self, response):
            reward = super()._score(response)
            return type(reward)(0.1 + 0.2, {"reward_model": 1e-300}, "ok")

    rewards, _ = letters("a", source=Exact())
    assert (rewards[0].value, rewards[0].components) == (0.1 + 0.2, {"reward_model": 1e-300})


def test_messages_answers_and_metadata_arrive_as_they_are():
    app = Scripted(answers())
    with listening(app) as url:
        remote(url, "rf-token").score(
            [request("é \u2028", finish_reason="length", answer="7", metadata={"n": [1, None]})]
        )
    (item,) = app.posts[0]["items"]
    assert item == {
        "id": "0", "messages": [{"role": "user", "content": "Why?"}], "response": "é \u2028",
        "finish_reason": "length", "answer": "7", "metadata": {"n": [1, None]},
    }  # fmt: skip
    assert app.headers[0][b"authorization"] == b"Bearer rf-token"


def test_what_cannot_be_json_is_an_error_of_its_own():
    rewards, failure, _ = score(Scripted(answers()), "a", "\ud800", "b")
    assert statuses(rewards) == ["ok", "error", "ok"]
    assert "cannot be sent as JSON" in failure


def test_a_service_that_is_not_there_yet_is_waited_for(tmp_path):
    port = free_port()
    app, token = letters_app(tmp_path, Letters())
    with ThreadPoolExecutor() as pool:
        scoring = pool.submit(remote(f"http://127.0.0.1:{port}", token).score, requests(*WORDS))
        time.sleep(0.3)
        assert not scoring.done()
        with listening(app, port):
            assert values(scoring.result(20)) == [length(word) for word in WORDS]


@pytest.mark.parametrize("status", [429, 502, 503])
def test_a_service_that_is_busy_is_asked_again_when_it_said(status):
    app = Scripted(refuses(status, retry_after=1), answers())
    rewards, _, _ = score(app, *WORDS)
    assert statuses(rewards) == ["ok"] * 5
    assert app.batches() == [list(WORDS)] * 2
    assert app.times[1] - app.times[0] >= 1


@pytest.mark.parametrize("act", [cut, refuses(500), refuses(504), refuses(503, code=SCORER_LOST), says(b"{")])
def test_an_answer_that_did_not_come_is_asked_for_again(act):
    app = Scripted(act, answers())
    rewards, _, _ = score(app, *WORDS)
    assert statuses(rewards) == ["ok"] * 5
    assert app.batches() == [list(WORDS)] * 2


def test_only_the_slow_answer_has_timed_out(letters):
    rewards, failure = letters("a", "slow", "ccc", "dddd", "e", timeout_s=SLOW_S / 2)
    assert statuses(rewards) == ["ok", "timeout", "ok", "ok", "ok"]
    assert values(rewards) == [length("a"), None, length("ccc"), length("dddd"), length("e")]
    assert "scoring took longer than 0.75 s" in failure


def test_waiting_for_others_is_not_scoring(letters):
    source = Letters(together=1, each_s=0.3)
    began = time.monotonic()
    rewards, _ = letters(*WORDS, *WORDS, source=source, timeout_s=1.2)
    assert time.monotonic() - began > 2 * 1.2
    assert statuses(rewards) == ["ok"] * 10


def test_waiting_for_another_client_is_not_scoring(tmp_path):
    app, token = letters_app(tmp_path, Letters(together=1, each_s=0.4))
    with listening(app) as url, ThreadPoolExecutor() as pool:
        first = pool.submit(remote(url, token).score, requests(*WORDS))
        time.sleep(0.1)
        second = remote(url, token, timeout_s=1.4).score(requests("late"))
    assert statuses(second) == statuses(first.result()[:1]) == ["ok"]


@pytest.mark.parametrize("word", ["raise", "unreadable"])
def test_an_answer_that_cannot_be_scored_takes_no_other_with_it(letters, word):
    rewards, failure = letters("a", word, "ccc")
    assert statuses(rewards) == ["ok", "error", "ok"]
    assert f"RuntimeError: {word}: out of memory" in failure


def test_a_score_that_is_no_number_is_an_error_with_the_services_reason(letters):
    rewards, failure = letters("a", "nan", "ccc")
    assert statuses(rewards) == ["ok", "error", "ok"]
    assert failure.endswith("the reward model's score is nan")


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), "1.0", True, None, [1.0], {}])
def test_a_value_that_is_no_finite_number_is_an_error_and_never_zero(wrong):
    rewards, failure, _ = score(Scripted(answers(lambda items: [{**items[0], "value": wrong}, *items[1:]])), *WORDS)
    assert statuses(rewards) == ["error", *["ok"] * 4]
    assert rewards[0].value is None
    assert "value is" in failure


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        ({"status": "ok"}, "value is None"),
        ({"status": "ok", "value": 1.0, "components": {"a": float("nan")}}, "components are"),
        ({"status": "ok", "value": 1.0, "components": [1.0]}, "components are"),
        ({"status": "fine", "value": 1.0}, "the status 'fine'"),
        ({"value": 1.0}, "the status None"),
        ({"status": "error", "reason": "the judge is asleep"}, "the judge is asleep"),
        ({"status": "error", "value": 0.0}, "gave no reason"),
        ({"status": "timeout", "value": 0.0}, "gave no reason"),
    ],
)
def test_an_item_that_is_not_ok_or_not_whole_has_no_value(item, reason):
    rewards, failure, _ = score(Scripted(answers(lambda items: [{"id": "0", **item}])), "a")
    assert rewards[0].value is None
    assert rewards[0].status == ("timeout" if item.get("status") == "timeout" else "error")
    assert reason in failure


@pytest.mark.parametrize(
    ("act", "reason"),
    [
        (says(b"<html>"), "malformed answer"),
        (says(b"[]"), "malformed answer"),
        (answers(object="other"), "malformed answer: object"),
        (answers(lambda items: items[:-1]), "ids for"),
        (answers(lambda items: [*items, items[0]]), "ids for"),
        (answers(lambda items: [{**item, "id": "x"} for item in items]), "not those of the items sent"),
        (answers(lambda items: [{"status": "ok", "value": 1.0} for _ in items]), "not those of the items sent"),
    ],
)
def test_an_answer_to_something_else_is_never_taken(act, reason):
    app = Scripted(act)
    rewards, failure, _ = score(app, "a", "bb")
    assert statuses(rewards) == ["error", "error"]
    assert reason in failure
    assert app.batches() == [["a", "bb"]] * 2 + [["a"]] * BROKEN_MOST + [["bb"]] * BROKEN_MOST


def test_scores_in_another_order_are_not_taken_for_each_others():
    app = Scripted(answers(lambda items: items[::-1]))
    rewards, _, _ = score(app, "a", "bb")
    assert values(rewards) == [length("a"), length("bb")]  # asked for one by one
    assert app.batches() == [["a", "bb"], ["a", "bb"], ["a"], ["bb"]]


def test_what_is_too_large_is_sent_in_halves():
    def act(post):
        return (refuses(413) if len(post["items"]) > 2 else answers())(post)

    app = Scripted(act)
    rewards, _, _ = score(app, *WORDS)
    assert values(rewards) == [length(word) for word in WORDS]
    assert max(len(batch) for batch in app.batches()[1:]) <= 3


def test_an_item_that_is_too_large_by_itself_is_an_error_of_its_own(letters):
    served = ServedModel(model="m", digest="d1", max_body_bytes=2000)
    app = {"served": served, "limits": Limits(body_bytes=2000, burst=100)}
    rewards, failure = letters("a", "x" * 3000, "ccc", app=app, served=served)
    assert statuses(rewards) == ["ok", "error", "ok"]
    assert "answered 413" in failure


def test_batches_are_no_larger_than_the_service_takes():
    app = Scripted(answers())
    served = SERVED.model_copy(update={"max_items": 2})
    score(app, *WORDS, served=served)
    assert sorted(len(batch) for batch in app.batches()) == [1, 2, 2]
    app = Scripted(answers())
    score(app, *["x" * 600] * 4, served=SERVED.model_copy(update={"max_body_bytes": 2000}))
    assert [len(batch) for batch in app.batches()] == [2, 2]


@pytest.mark.parametrize("status", [400, 422, 500, 503])
def test_one_item_that_nothing_can_score_is_found_and_the_others_are_scored(status):
    def act(post):
        poisoned = any(item["response"] == "poison" for item in post["items"])
        return (refuses(status, "it hurts", SCORER_LOST) if poisoned else answers())(post)

    rewards, failure, _ = score(Scripted(act), *WORDS, "poison", *WORDS)
    assert statuses(rewards) == [*["ok"] * 5, "error", *["ok"] * 5]
    assert failure.endswith(f"answered {status}: it hurts")


@pytest.mark.parametrize("status", [301, 401, 403, 404])
def test_who_is_not_let_in_does_not_knock_again(status):
    app = Scripted(refuses(status, "the token is not valid"))
    rewards, failure, _ = score(app, *WORDS)
    assert statuses(rewards) == ["error"] * 5
    assert values(rewards) == [None] * 5
    assert len(app.posts) == 1
    assert failure.endswith(f"answered {status}: the token is not valid")


def test_the_scores_of_another_model_are_not_mixed_in():
    app = Scripted(answers(digest="d2", model="other"))
    rewards, failure, _ = score(app, *WORDS)
    assert statuses(rewards) == ["error"] * 5
    assert "the service has another model now: other (d2), not d1" in failure
    assert len(app.posts) == 1


@pytest.mark.parametrize("act", [refuses(503), trickles])
def test_waiting_ends_when_its_budget_does(act):
    rewards, failure, took_s = score(Scripted(act), "a", timeout_s=0.3, queue_timeout_s=0.5)
    assert statuses(rewards) == ["error"]
    assert "not scored within reward.queue_timeout_s = 0.5 s; the last attempt:" in failure
    assert took_s < 8


def test_nobody_there_is_an_error_with_the_reason():
    source = remote(f"http://127.0.0.1:{free_port()}", timeout_s=0.1, queue_timeout_s=0.2)
    assert statuses(source.score(requests("a"))) == ["error"]
    assert "cannot be reached" in source.last_failure


def test_waits_double_up_to_a_limit_and_are_the_same_for_the_same_seed():
    waits = [Pace(0.5, 4.0, seed=3).wait_s(attempt) for attempt in range(6)]
    bounds = [0.5, 1.0, 2.0, 4.0, 4.0, 4.0]
    assert all(bound / 2 <= wait <= bound for wait, bound in zip(waits, bounds, strict=True))
    one, other, third = (Pace(seed=seed) for seed in (3, 3, 4))
    assert (
        [one.wait_s(i) for i in range(5)] == [other.wait_s(i) for i in range(5)] != [third.wait_s(i) for i in range(5)]
    )
    assert Pace().wait_s(0, retry_after_s=30) >= 30
    assert Pace().wait_s(10_000) <= 15


def test_a_retry_after_may_be_a_date():
    app = Scripted(refuses(503, retry_after=formatdate(time.time() + 2, usegmt=True)), answers())
    score(app, "a")
    assert app.times[1] - app.times[0] > 0.9


def test_scoring_from_several_threads_is_safe(tmp_path):
    app, token = letters_app(tmp_path, Letters())
    with listening(app) as url:
        source = remote(url, token)
        found = []

        def run(word):
            found.append(values(source.score(requests(word, word + "!"))) == [length(word), length(word + "!")])

        threads = [threading.Thread(target=run, args=("x" * n,)) for n in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    assert found == [True] * 12


def test_scores_are_json_that_any_client_reads(tmp_path):
    app, token = letters_app(tmp_path, Letters())
    item = {"id": "a", "messages": [{"role": "user", "content": "Why?"}], "response": "abcd"}
    with listening(app) as url:
        answer = httpx.post(f"{url}/v1/rewards", json={"items": [item]}, headers={"Authorization": f"Bearer {token}"})
    content = json.loads(answer.text)
    assert content["items"][0].pop("scoring_s") >= 0
    assert content == {
        "object": "rewards", "model": SERVED.model, "digest": "d1",
        "items": [
            {"id": "a", "status": "ok", "value": 0.5, "components": {"reward_model": 0.5}, "reason": None},
        ],
    }  # fmt: skip
