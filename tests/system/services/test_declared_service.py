"""The services that `rayrlhf k8s render` declares, given to a real Serve as KubeRay's operator gives them."""

import time

import httpx
import pytest
import ray
import ray._private.state
import yaml
from ray import serve
from ray.cluster_utils import Cluster
from ray.serve.context import _get_global_client
from ray.serve.schema import ApplicationStatus, ServeDeploySchema

from rayrlhf.access.tokens import TokenFile
from rayrlhf.config.sections import RewardConfig
from rayrlhf.jobs.k8s.render import render
from rayrlhf.jobs.k8s.settings import KubernetesSettings
from rayrlhf.rewards.finding import find_service
from tests import tiny
from tests.ports import free_port
from tests.system.served import ASK

DEADLINE_S = 200
PORT = free_port()
URL = f"http://127.0.0.1:{PORT}"


@pytest.fixture(scope="module")
def volume(tmp_path_factory):
    """What all pods would share, and a cluster as it would be: no work on the head, a labelled group a service."""
    folder = tmp_path_factory.mktemp("volume")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    for group in ("policy", "reward"):
        cluster.add_node(num_cpus=2, labels={"rayrlhf/group": group})
    ray.init(address=cluster.address, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": PORT})
    yield folder
    serve.shutdown()
    ray.shutdown()
    cluster.shutdown()


def declared(volume, path, kind, *overrides):
    """`serveConfigV2`, as it is rendered."""
    settings = KubernetesSettings.model_validate(
        {
            "storage": {"mount": str(volume)},
            "service": {
                "store": str(volume / "feedback.db"), "cpus": 0.4, "dtype": "float32", "max_model_length": 256,
            },
            "reward_service": {"cpus": 0.4},
        }
    )  # fmt: skip
    service = render(path, overrides, settings, kind)[0].manifest()
    config = yaml.safe_load(service["spec"]["serveConfigV2"])
    config["http_options"] = {"host": "127.0.0.1", "port": PORT}
    return config


def apply(config):
    """What the operator does, and what it waits for."""
    _get_global_client().deploy_apps(ServeDeploySchema.model_validate(config))
    wanted = {application["name"] for application in config["applications"]}
    deadline = time.monotonic() + DEADLINE_S
    while True:
        found = serve.status().applications
        if set(found) == wanted and all(app.status == ApplicationStatus.RUNNING for app in found.values()):
            return
        failed = [app.message for app in found.values() if app.status == ApplicationStatus.DEPLOY_FAILED]
        assert not failed, failed
        assert time.monotonic() < deadline, found
        time.sleep(0.2)


def version(token):
    response = httpx.post(
        f"{URL}/v1/chat/completions", headers={"Authorization": f"Bearer {token}"}, json=ASK, timeout=60
    )
    assert response.status_code == 200, response.text
    return response.json()["rayrlhf"]["policy_version"]


def nodes_of(deployment):
    actors = ray._private.state.actors().values()
    wanted = {actor["Address"]["NodeID"] for actor in actors if deployment in actor["ActorClassName"]}
    return {node["Labels"].get("rayrlhf/group") for node in ray.nodes() if node["NodeID"] in wanted}


def test_a_policy_is_served_as_it_is_declared_and_the_declaration_is_the_only_truth(volume):
    tiny.write_policy(volume / "runs/ppo/model")
    tiny.write_policy(volume / "runs/next/model", seed=1)
    config = declared(volume, "examples/ppo.toml", "policy-service")
    home = volume / "services/ppo-policy"
    apply(config)
    token = TokenFile(home / "tokens.json").issue("ada", "user", 1)
    assert version(token) == 1
    assert nodes_of("PolicyServer") == {"policy"}
    apply(config)  # an operator that was restarted does this
    assert version(token) == 1
    for application in config["applications"]:
        application["args"]["model"] = str(volume / "runs/next/model")
    apply(config)
    deadline = time.monotonic() + DEADLINE_S
    while version(token) != 2:
        assert time.monotonic() < deadline
        time.sleep(0.5)


def test_a_reward_model_is_served_as_it_is_declared(volume):
    tiny.write_reward_model(volume / "runs/reward/model")
    apply(declared(volume, "examples/reward.toml", "reward-service"))
    token = TokenFile(volume / "services/reward-service/tokens.json").issue("a run", "user", 1)
    assert find_service(RewardConfig(url=URL), token).served.model == "reward/model"
    assert nodes_of("RewardReplica") == {"reward"}
