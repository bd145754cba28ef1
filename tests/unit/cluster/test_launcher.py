"""Ray's launcher files: what Ray itself checks, and what keeps a cluster closed."""

import copy
import re
from pathlib import Path

import pytest
import yaml
from jsonschema import ValidationError
from ray._private.label_utils import parse_node_labels_string, validate_node_labels
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).parents[3]
FILES = sorted((ROOT / "cluster").glob("*.yaml"))
CLOUDS = [path for path in FILES if path.stem != "on-premise"]
TOKEN = "/home/ray/.ray/auth_token"


def load(path):
    return yaml.safe_load(path.read_text())


def by_name(path):
    return path.stem


def test_there_is_one_for_each_place():
    assert [path.stem for path in FILES] == ["aws", "gcp", "on-premise"]


@pytest.mark.parametrize("path", FILES, ids=by_name)
def test_ray_takes_it(path):
    validate_config(prepare_config(load(path)))
    misspelt = copy.deepcopy(load(path)) | {"max_wokers": 3}
    with pytest.raises(ValidationError, match="max_wokers"):
        validate_config(prepare_config(misspelt))


@pytest.mark.parametrize("path", FILES, ids=by_name)
def test_every_node_asks_for_a_token_that_is_a_file_and_in_no_yaml(path):
    config = load(path)
    assert config["file_mounts"][TOKEN] == "~/.ray/auth_token"
    for commands in (config["head_start_ray_commands"], config["worker_start_ray_commands"]):
        (start,) = [command for command in commands if "ray start" in command]
        assert re.match(r"export RAY_AUTH_MODE=token && test -s ~/.ray/auth_token && ray start ", start)
    assert "RAY_AUTH_TOKEN" not in path.read_text()


@pytest.mark.parametrize("path", FILES, ids=by_name)
def test_the_head_takes_no_work_and_its_dashboard_is_local(path):
    (start,) = [command for command in load(path)["head_start_ray_commands"] if "--head" in command]
    assert {"--num-cpus=0", "--dashboard-host=127.0.0.1", "--port=6379"} <= set(start.split())


@pytest.mark.parametrize("path", FILES, ids=by_name)
def test_no_port_of_ray_is_opened_to_the_outside(path):
    config = load(path)
    assert "IpPermissions" not in config["provider"].get("security_group", {})
    assert "-p " not in " ".join(config["docker"]["run_options"])
    comments = " ".join(line for line in path.read_text().splitlines() if line.lstrip().startswith("#"))
    assert all(port in comments for port in ("6379", "8265", "10001"))


@pytest.mark.parametrize("path", FILES, ids=by_name)
def test_containers_have_no_privileges(path):
    options = load(path)["docker"]["run_options"]
    assert {"--cap-drop=ALL", "--security-opt=no-new-privileges"} <= set(options)
    assert not any("privileged" in option and "no-new" not in option for option in options)


@pytest.mark.parametrize("path", CLOUDS, ids=by_name)
def test_groups_of_workers_have_the_labels_of_the_roles(path):
    types = load(path)["available_node_types"]
    assert {name: about["labels"] for name, about in types.items()} == {
        name: {"rayrlhf/group": name} for name in ("head", "learner", "rollout", "reward")
    }
    for about in types.values():
        validate_node_labels(about["labels"])
    assert types["head"]["resources"] == {"CPU": 0}
    assert types["learner"]["min_workers"] == types["learner"]["max_workers"]
    assert sum(about.get("max_workers", 0) for about in types.values()) <= load(path)["max_workers"]


def test_learners_are_not_on_machines_that_are_taken_away():
    for path in CLOUDS:
        assert not re.search("spot|preemptible", str(load(path)["available_node_types"]["learner"]))


def test_the_label_can_be_given_on_a_command_line():
    assert parse_node_labels_string("rayrlhf/group=rollout") == {"rayrlhf/group": "rollout"}


def test_what_the_head_installs_on_aws_fits_the_locked_botocore():
    lock = dict(re.findall(r"^([a-z0-9]+)==(\S+)$", (ROOT / "requirements/gpu.lock").read_text(), re.MULTILINE))
    (command,) = load(ROOT / "cluster/aws.yaml")["head_setup_commands"]
    wanted = dict(re.findall(r"(\w+)==(\S+)", command))
    assert wanted["boto3"] == lock["botocore"]
    assert wanted["jmespath"] == lock["jmespath"]
