import json
import time

import numpy
import pytest

from rayrlhf.errors import ConfigError
from rayrlhf.rewards.function import FunctionReward, import_function
from rayrlhf.rewards.requests import RewardRequest


def judge(request):
    match request.response:
        case "hang":
            time.sleep(60)
        case "raise":
            raise ValueError("no")
        case "die":
            import os

            os._exit(3)
        case "nan":
            return float("nan")
        case "parts":
            return {"a": numpy.float32(1.0), "b": 0.5}
        case "words":
            return {"a": "good"}
    return 2


def request(response):
    return RewardRequest((), response, "stop", None, {})


def test_a_call_that_hangs_raises_or_dies_is_a_status_and_the_others_are_scored():
    source = FunctionReward(f"{__name__}:judge", timeout_s=1.0)
    answers = ["fine", "hang", "raise", "die", "nan", "words", "parts", "fine"]
    rewards = source.score([request(a) for a in answers])
    source.close()
    assert [r.status for r in rewards] == ["ok", "timeout", *["error"] * 4, "ok", "ok"]
    assert json.dumps(rewards[6].components) == '{"a": 1.0, "b": 0.5}'
    assert "could not convert string to float" in source.last_failure
    assert [r.value for r in rewards] == [2.0, None, None, None, None, None, 1.5, 2.0]


@pytest.mark.parametrize("path", ["nocolon", "no.such.module:f", "math:nothing", "math:pi", ":f", ".m:f"])
def test_a_function_that_cannot_be_imported_is_a_config_error(path):
    with pytest.raises(ConfigError, match=r"reward\.function"):
        import_function(path)
