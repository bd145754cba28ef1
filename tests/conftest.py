import os
import secrets
import uuid

# Before Ray is imported, which reads them then: every cluster of the tests asks for a token.
os.environ["RAY_AUTH_MODE"] = "token"
os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)

import pytest

from rayrlhf.data.stores import as_path
from tests import s3, tiny


@pytest.fixture(scope="session")
def tiny_policy(tmp_path_factory):
    return tiny.write_policy(tmp_path_factory.mktemp("models") / "policy")


@pytest.fixture(scope="session")
def tiny_reward_model(tmp_path_factory):
    return tiny.write_reward_model(tmp_path_factory.mktemp("models") / "reward")


@pytest.fixture(scope="module")
def s3_server():
    with s3.serving() as server:
        yield server


@pytest.fixture
def s3_folder(s3_server):
    """A folder of its own in a real S3."""
    return as_path(f"{s3_server.url}/{uuid.uuid4().hex}")
