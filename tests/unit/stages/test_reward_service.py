import uuid

import pytest

from rayrlhf.config.sections import RewardConfig
from rayrlhf.data.durable import as_path, write_durably
from rayrlhf.errors import CheckpointError, ConfigError
from rayrlhf.rewards.wire import ServedModel
from rayrlhf.stages.reward_service import find_reward_service, remember_reward_service
from rayrlhf.stages.run_directory import RunDirectory
from tests.unit.rewards.services import SERVED, Letters, Scripted, letters_app, listening, refuses


@pytest.fixture(params=["local", "remote"])
def directory(request, tmp_path):
    root = tmp_path / "runs" if request.param == "local" else as_path(f"memory://{uuid.uuid4().hex}/runs")
    return RunDirectory(root / "run")


@pytest.fixture
def found(tmp_path, monkeypatch, directory):
    """What a run finds at a service of `served`."""

    def find(served):
        app, token = letters_app(tmp_path, Letters(), served=served)
        monkeypatch.setenv("RAYRLHF_REWARD_TOKEN", f"{token}\n")
        with listening(app) as url:
            return find_reward_service(RewardConfig(url=url), directory)

    return find


def commit_a_step(directory):
    write_durably(directory.trajectories / "step-000001.parquet", b"")


def test_a_run_without_a_url_asks_nobody(directory):
    assert find_reward_service(RewardConfig(function="a:b"), directory) is None
    remember_reward_service(None, directory)


def test_the_token_comes_from_the_environment(found):
    assert found(SERVED).token.startswith("rf-")


def test_a_run_goes_on_with_the_model_it_began_with_wherever_that_is(found, directory):
    remember_reward_service(found(SERVED), directory)
    commit_a_step(directory)
    assert found(ServedModel(model="another/name", digest=SERVED.digest)).served.digest == SERVED.digest


def test_a_run_with_rewards_of_one_model_does_not_go_on_with_another(found, directory):
    remember_reward_service(found(SERVED), directory)
    other = ServedModel(model="other", digest="d2")
    assert found(other).served == other  # there are no rewards yet
    commit_a_step(directory)
    with pytest.raises(CheckpointError, match=r"the model tests/letters \(d1\), and reward\.url = .* has other \(d2\)"):
        found(other)


def test_a_url_of_something_else_is_a_wrong_config(directory):
    with listening(Scripted(refuses(404))) as url, pytest.raises(ConfigError, match=r"reward\.url"):
        find_reward_service(RewardConfig(url=url), directory)
