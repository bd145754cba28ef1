import json

import pytest

from rayrlhf.config.sections import RewardConfig
from rayrlhf.errors import ConfigError
from rayrlhf.rewards.finding import find_service
from tests.ports import free_port
from tests.unit.rewards.services import SERVED, Letters, Scripted, letters_app, listening, refuses, says

MODEL = SERVED.model_dump_json().encode()


def find(url, token=None, wait_s=0.2, **changes):
    return find_service(RewardConfig(url=url, timeout_s=1.0, queue_timeout_s=1.0, **changes), token, wait_s)


def refusal(app, token=None):
    with listening(app) as url, pytest.raises(ConfigError, match=rf"reward\.url = '{url}'") as error:
        find(url, token)
    assert error.value.exit_code == 2
    return str(error.value)


def test_a_service_that_scores_is_found_with_its_model(tmp_path):
    app, token = letters_app(tmp_path, Letters())
    with listening(app) as url:
        service = find(url, token)
    assert (service.url, service.served) == (url, SERVED)
    assert token not in repr(service)


def test_a_token_that_is_missing_or_wrong_is_said_with_where_it_comes_from(tmp_path):
    app, _ = letters_app(tmp_path, Letters())
    assert "answered 401: a token is expected: Authorization: Bearer … (RAYRLHF_REWARD_TOKEN is not set)" in refusal(
        app
    )
    wrong = refusal(app, "rf-wrong")
    assert "the token is not valid (the token is the one in RAYRLHF_REWARD_TOKEN)" in wrong
    assert "rf-wrong" not in wrong


def test_a_role_that_may_not_is_said():
    assert "answered 403: no" in refusal(Scripted(refuses(403)))


@pytest.mark.parametrize("token", ["two words", "line\nbreak", "é"])
def test_a_token_that_is_none_is_refused_without_showing_it(token):
    with pytest.raises(ConfigError, match="RAYRLHF_REWARD_TOKEN holds characters") as error:
        find(f"http://127.0.0.1:{free_port()}", token)
    assert token not in str(error.value)


@pytest.mark.parametrize(
    "act", [refuses(404), refuses(301), refuses(405), says(b"hello"), says(b"{}"), says(b'{"object": "list"}')]
)
def test_another_service_is_said_to_be_none(act):
    assert "expected the address of `rayrlhf serve --role reward`" in refusal(Scripted(act))


def test_nobody_there_is_said_with_the_reason(capsys):
    with pytest.raises(ConfigError, match="cannot be reached"):
        find(f"http://127.0.0.1:{free_port()}", wait_s=1.0)
    assert "waiting up to 1 s for it" in capsys.readouterr().out


def test_a_service_on_its_way_up_is_waited_for(tmp_path):
    app, token = letters_app(tmp_path, Letters())
    coming = Scripted(refuses(503), says(MODEL), lambda post: (200, [], _scores(post)))
    with listening(coming) as url:
        assert find(url, token, wait_s=10.0).served == SERVED
    assert app


def test_a_service_that_cannot_score_is_refused_with_its_reason(tmp_path):
    class Broken(Letters):
        def _score(self, response):
            raise RuntimeError("no memory")

    app, token = letters_app(tmp_path, Broken())
    assert "its first score failed" in refusal(app, token)


def _scores(post):
    items = [{"id": item["id"], "status": "ok", "value": 1.0} for item in post["items"]]
    return json.dumps({"object": "rewards", "model": "m", "digest": SERVED.digest, "items": items}).encode()
