import time

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
            return {"a": 1.0, "b": 0.5}
    return 2


def request(response):
    return RewardRequest((), response, "stop", None, {})


def test_a_call_that_hangs_raises_or_dies_is_a_status_and_the_others_are_scored():
    source = FunctionReward(f"{__name__}:judge", timeout_s=1.0)
    answers = ["fine", "hang", "raise", "die", "nan", "parts", "fine"]
    rewards = source.score([request(a) for a in answers])
    source.close()
    assert [r.status for r in rewards] == ["ok", "timeout", "error", "error", "error", "ok", "ok"]
    assert [r.value for r in rewards] == [2.0, None, None, None, None, 1.5, 2.0]


@pytest.mark.parametrize("path", ["nocolon", "no.such.module:f", "math:nothing", "math:pi"])
def test_a_function_that_cannot_be_imported_is_a_config_error(path):
    with pytest.raises(ConfigError, match=r"reward\.function"):
        import_function(path)
