import pytest

from rayrlhf.config.load import settings_of
from rayrlhf.errors import ConfigError
from rayrlhf.serving.foreground import require_free
from rayrlhf.serving.reward_service import reward_application
from rayrlhf.serving.reward_settings import RewardServiceSettings
from tests.unit.rewards.services import SERVED, listening


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["max_sequence_tokens=5000"], "max_sequence_tokens = 5000 does not fit micro_batch_tokens = 4096"),
        (["replicas=0"], "replicas = 0: "),
        (["replicas=3", "max_replicas=2"], r"max_replicas: at least replicas \(3\) is expected"),
        (["max_queue=1"], "unknown key 'max_queue'"),
    ],
)
def test_settings_that_cannot_work_are_refused(wrong, message):
    with pytest.raises(ConfigError, match=message):
        settings_of(RewardServiceSettings, wrong)


def test_every_setting_says_what_it_is():
    assert all(field.description for field in RewardServiceSettings.model_fields.values())


def test_an_application_is_built_without_starting_anything():
    import ray

    for overrides in (["replicas=2"], ["max_replicas=4", "gpus=1"]):
        assert reward_application("model", settings_of(RewardServiceSettings, overrides), SERVED)
    assert not ray.is_initialized()


def test_a_port_that_is_taken_is_said_before_anything_is_started():
    with listening(lambda *_: None) as url, pytest.raises(ConfigError, match="cannot be listened on"):
        require_free("127.0.0.1", int(url.rsplit(":", 1)[1]))
