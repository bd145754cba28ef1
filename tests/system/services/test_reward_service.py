"""A real reward model on Ray Serve: runs get the rewards that the model gives, also while a replica is killed."""

import threading
import time

import pytest
import ray

from rayrlhf.access.tokens import TokenFile
from rayrlhf.cli import main
from rayrlhf.config.sections import ModelConfig, RewardConfig
from rayrlhf.data.journal import Journal
from rayrlhf.rewards.finding import find_service
from rayrlhf.rewards.model import ModelReward
from rayrlhf.rewards.remote import RemoteReward
from rayrlhf.stages.rl import run_rl
from rayrlhf.stages.run_directory import to_toml
from tests.ports import free_port
from tests.system import jobs
from tests.system.reward_server import MAX_SEQUENCE_TOKENS, replica_of, serving
from tests.unit.rewards.services import requests

STEPS = 6


class Service:
    """A running reward service."""

    def __init__(self, process, url, token):
        self.process, self.url, self.token = process, url, token

    def kill_replica(self):
        replica = replica_of(self.process)
        replica.kill()
        return replica.pid

    def replica(self):
        deadline = time.monotonic() + 90
        while (replica := replica_of(self.process)) is None and time.monotonic() < deadline:
            time.sleep(0.1)
        return replica.pid


@pytest.fixture(scope="module")
def service(tmp_path_factory, tiny_reward_model):
    folder, port = tmp_path_factory.mktemp("service"), free_port()
    token = TokenFile(folder / "tokens.json").issue("a run", "user", 1)
    with serving(tiny_reward_model, folder / "tokens.json", port, folder / "log.txt") as process:
        yield Service(process, f"http://127.0.0.1:{port}", token)


@pytest.fixture(scope="module", autouse=True)
def cluster(service):
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(autouse=True)
def token(service, monkeypatch):
    monkeypatch.setenv("RAYRLHF_REWARD_TOKEN", service.token)


def make(folder, policy, name, **reward):
    reward = {"function": None, "cpus": 0.1, "threads": 1, "max_sequence_tokens": MAX_SEQUENCE_TOKENS, **reward}
    return jobs.make(
        folder, policy, name=name, reward=reward, rollout={"truncated": "keep", "cpus": 0.1}, learner={"cpus": 0.1},
        run={"steps": STEPS, "phase_timeout_s": 900.0},
    )  # fmt: skip


def journalled(directory):
    journal = Journal(directory.trajectories)
    return {row["trajectory_id"]: row for step in journal.committed_steps() for row in journal.rows(step)}


@pytest.mark.timeout(900)
def test_a_url_gives_the_rewards_that_its_model_gives_though_the_replica_is_killed_under_way(
    tmp_path, tiny_policy, tiny_reward_model, service
):
    local = journalled(run_rl(make(tmp_path, tiny_policy, "local", model=str(tiny_reward_model)), "never"))
    killed = []

    def kill_after_two_steps():
        while len(jobs.metrics(tmp_path, "remote")) < 2:
            time.sleep(0.05)
        killed.append(service.kill_replica())

    killer = threading.Thread(target=kill_after_two_steps, daemon=True)
    killer.start()
    directory = run_rl(make(tmp_path, tiny_policy, "remote", url=service.url), "never")
    killer.join(10)
    remote = journalled(directory)
    assert killed
    assert service.replica() not in killed
    assert remote.keys() == local.keys()
    assert len(remote) == STEPS * 16
    assert {row["reward_status"] for row in remote.values()} == {"ok"}
    for id_, row in remote.items():
        assert row["response_token_ids"] == local[id_]["response_token_ids"]
        assert row["reward"] == pytest.approx(local[id_]["reward"], abs=1e-6)
        assert row["reward_components"] == pytest.approx(local[id_]["reward_components"], abs=1e-6)
    assert len({row["reward"] for row in remote.values()}) > len(remote) / 2
    assert '"digest"' in directory.reward_service.read_text()


def test_no_score_is_lost_or_another_ones_when_a_replica_dies_in_the_middle_of_scoring(service, tiny_reward_model):
    asked = requests(*(f"{n} {'x' * (n % 200)}" for n in range(3000)))
    config = RewardConfig(url=service.url)
    source = RemoteReward(find_service(config, service.token), config.timeout_s, config.queue_timeout_s)
    killer = threading.Timer(0.7, service.kill_replica)
    killer.start()
    began = time.monotonic()
    rewards = source.score(asked)
    assert time.monotonic() - began > 2  # a new replica takes longer to come up
    own = ModelReward(str(tiny_reward_model), ModelConfig(path=str(tiny_reward_model)), 4096, MAX_SEQUENCE_TOKENS)
    assert {reward.status for reward in rewards} == {"ok"}
    expected = [reward.value for reward in own.score(asked)]
    assert [reward.value for reward in rewards] == pytest.approx(expected, abs=1e-5)


def test_a_wrong_token_ends_the_command_before_anything_is_started(service, tmp_path, tiny_policy, capsys, monkeypatch):
    config = tmp_path / "job.toml"
    config.write_text(to_toml(make(tmp_path, tiny_policy, "wrong", url=service.url)))
    monkeypatch.setenv("RAYRLHF_REWARD_TOKEN", "rf-wrong")
    assert main(["rl", str(config)]) == 2
    error = capsys.readouterr().err
    assert f"reward.url = '{service.url}': answered 401: the token is not valid" in error
    assert not (tmp_path / "runs").exists()
