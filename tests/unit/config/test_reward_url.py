import pytest

from rayrlhf.config.jobs import RLJob
from rayrlhf.config.load import load_job
from rayrlhf.errors import ConfigError
from rayrlhf.loop.progress import config_changes


def job(*overrides):
    return load_job(RLJob, "examples/grpo_reward_url.toml", overrides)


def refused(*overrides):
    with pytest.raises(ConfigError) as error:
        job(*overrides)
    return str(error.value)


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("https://rewards.example/", "https://rewards.example"),
        ("http://[::1]:8000/team/a/", "http://[::1]:8000/team/a"),
    ],
)
def test_a_service_may_be_anywhere_and_below_a_path(url, kept):
    assert job(f"reward.url={url}").reward.url == kept


@pytest.mark.parametrize(
    "url",
    ["rewards:8000", "ftp://host", "http://", "http://:8000", "http://host:port", "http://host:99999", "http://a b",
     "http://host?token=hunter2", "http://host#hunter2", "''", "http://host\\u0000x"],
)  # fmt: skip
def test_what_is_no_address_of_a_service_is_refused_and_not_shown(url):
    message = refused(f'reward.url="{url}"')
    assert "reward.url: http://host:port or https://host:port is expected, without a query" in message
    assert "hunter2" not in message


@pytest.mark.parametrize("url", ["http://me:hunter2@host:8000", "http://hunter2@host", "https://me:hun@ter2@host/x"])
def test_credentials_in_the_url_are_refused_and_not_shown(url):
    message = refused(f"reward.url={url}")
    assert "reward.url: a URL without credentials is expected" in message
    assert "RAYRLHF_REWARD_TOKEN" in message
    assert not any(word in message for word in ("hunter2", "hun@ter2", "ter2"))


@pytest.mark.parametrize("other", ["reward.model=x", "reward.function=a:b"])
def test_there_is_one_source_of_rewards(other):
    assert "exactly one of reward.model, reward.function and reward.url" in refused(other)


def test_a_worker_that_waits_is_not_taken_for_one_that_hangs():
    assert "reward.queue_timeout_s + reward.timeout_s = 1830 is not below run.phase_timeout_s = 1800" in refused(
        "reward.queue_timeout_s=1800"
    )
    assert job("reward.queue_timeout_s=1800", "run.phase_timeout_s=4000").reward.queue_timeout_s == 1800


def test_a_resumed_run_may_find_its_service_elsewhere():
    moved = job("reward.url=https://elsewhere", "reward.queue_timeout_s=60")
    found = config_changes(job().model_dump(mode="json"), moved)
    assert found.harmful == ()
    assert [change.split()[0] for change in found.harmless] == ["reward.queue_timeout_s", "reward.url"]
