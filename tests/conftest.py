import pytest

from tests import tiny


@pytest.fixture(scope="session")
def tiny_policy(tmp_path_factory):
    return tiny.write_policy(tmp_path_factory.mktemp("models") / "policy")


@pytest.fixture(scope="session")
def tiny_reward_model(tmp_path_factory):
    return tiny.write_reward_model(tmp_path_factory.mktemp("models") / "reward")
