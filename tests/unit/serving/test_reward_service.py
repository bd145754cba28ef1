from pathlib import Path

import pytest

from rayrlhf.errors import ConfigError
from rayrlhf.serving.reward_server import ServeAddress, _require_free
from rayrlhf.serving.reward_service import RewardServiceSettings, reward_application
from tests.unit.rewards.services import SERVED, listening

TOKENS = Path("tokens.json")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"max_sequence_tokens": 5000}, "max_sequence_tokens = 5000 does not fit micro_batch_tokens = 4096"),
        ({"max_sequence_tokens": 0}, "max_sequence_tokens = 0: 1 or more"),
        ({"replicas": 0}, "replicas = 0: 1 or more"),
        ({"replicas": 3, "max_replicas": 2}, "max_replicas = 2 is less than replicas = 3"),
        ({"max_waiting": 0}, "max_waiting = 0: 1 or more"),
    ],
)
def test_settings_that_cannot_work_are_refused(wrong, message):
    with pytest.raises(ConfigError, match=message):
        RewardServiceSettings("model", TOKENS, **wrong)


def test_an_application_is_built_without_starting_anything():
    import ray

    assert reward_application(RewardServiceSettings("model", TOKENS, replicas=2), SERVED)
    assert reward_application(RewardServiceSettings("model", TOKENS, max_replicas=4, gpus=1.0), SERVED)
    assert not ray.is_initialized()


def test_a_port_that_is_taken_is_said_before_anything_is_started():
    with listening(lambda *_: None) as url, pytest.raises(ConfigError, match="cannot be listened on"):
        _require_free(ServeAddress(port=int(url.rsplit(":", 1)[1])))
