"""Manifests from configs: valid for KubeRay, large enough for the roles, and the same job when pods read it."""

import re
import tomllib

import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from rayrlhf.cli import main
from rayrlhf.config.kinds import job_kind
from rayrlhf.config.load import load_job, read_values, settings_of, validate_job
from rayrlhf.cycle.config import CycleJob
from rayrlhf.errors import ConfigError
from rayrlhf.jobs.k8s.render import as_yaml, render, render_volume
from rayrlhf.jobs.k8s.run_config import JOB_KINDS
from rayrlhf.jobs.k8s.settings import GROUP_LABEL, KubernetesSettings, load_settings
from rayrlhf.runtime.cluster import NodeRoom, check_room
from rayrlhf.serving.settings import ServiceSettings
from rayrlhf.stages.bundles import role_bundles

PPO, GPUS = "examples/ppo.toml", "examples/ppo_gpus.toml"
WITHOUT_CRITIC = "examples/grpo.toml"
CONFIGS = [
    (PPO, []),
    (PPO, ["rollout.workers=3", "reference.workers=2", "reward.workers=4"]),
    (PPO, ["learner.ranks=3", "learner.spread=true", "critic.ranks=2"]),
    (PPO, ["learner.cpus=6", "critic.cpus=3.5", "rollout.cpus=9"]),
    (PPO, ["rollout.node_labels.pool=a100", "learner.node_labels.pool=h100", "critic.node_labels.pool=l4"]),
    (PPO, ["run.directory=s3://bucket/runs"]),
    (WITHOUT_CRITIC, []),
    (WITHOUT_CRITIC, ["learner.gpus=1", "rollout.gpus=1", "rollout.tensor_parallel=4", "learner.ranks=16"]),
    ("examples/grpo_reward_url.toml", []),
    (GPUS, []),
    (GPUS, ["learner.ranks=24", "critic.ranks=24"]),
    (GPUS, ["reward.gpus=0.6", "reference.gpus=0.6", "name=Chat_PPO.v2"]),
    ("examples/sft.toml", []),
    ("examples/sft.toml", ["learner.ranks=8", "learner.gpus=1", "learner.spread=true"]),
    ("examples/reward.toml", ["learner.ranks=2", "learner.cpus=2"]),
    ("examples/cycle.toml", []),
    ("examples/cycle.toml", ["rl.learner.ranks=4", "sft.learner.ranks=8", "sft.run.batch_rows=8"]),
]  # fmt: skip


def rendered(path, overrides=(), kind=None, **settings):
    manifests = render(path, overrides, KubernetesSettings.model_validate(settings), kind)
    return [manifest.manifest() for manifest in manifests]


def one(manifests, kind):
    return next(manifest for manifest in manifests if manifest["kind"] == kind)


def groups(manifests):
    cluster = manifests[1]["spec"].get("rayClusterSpec") or one(manifests, "RayCluster")["spec"]
    return {group["groupName"]: group for group in cluster["workerGroupSpecs"]}


def sizes(group):
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    pods = group["replicas"] * group["numOfHosts"]
    return pods, float(limits["cpu"]), float(limits.get("nvidia.com/gpu", 0))


@pytest.mark.parametrize(("path", "overrides"), CONFIGS, ids=lambda value: str(value)[:60])
def test_what_is_rendered_passes_schemas_and_rules(path, overrides, project, crds, tmp_path, capsys):
    assert main(["k8s", "render", path, *overrides, "--to", str(tmp_path / "out")]) == 0
    assert main(["k8s", "check", str(tmp_path / "out"), "--crds", crds]) == 0, capsys.readouterr().out
    assert "SCHEMAS WERE NOT CHECKED" not in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["policy-service", "reward-service"])
def test_services_pass_schemas_and_rules(kind, project, crds, tmp_path, capsys):
    assert main(["k8s", "render", GPUS, "--kind", kind, "--to", str(tmp_path)]) == 0
    assert main(["k8s", "check", str(tmp_path), "--crds", crds]) == 0, capsys.readouterr().out


@pytest.mark.parametrize(("path", "overrides"), [c for c in CONFIGS if "cycle" not in c[0]], ids=lambda v: str(v)[:60])
def test_every_role_and_the_driver_fit_on_the_pods_however_ray_places_them(path, overrides, project):
    manifests = rendered(path, overrides)
    rooms = []
    for group in groups(manifests).values():
        pods, cpus, gpus = sizes(group)
        rooms += [NodeRoom(cpus - 1, gpus, group["labels"]) for _ in range(pods)]  # the driver is on any of them
    text = manifests[0]["data"]["job.toml"]
    job = loaded(text, job_kind(read_values(path), "--kind"))
    check_room(role_bundles(job), rooms)


def loaded(text, kind):
    return validate_job(JOB_KINDS[kind], tomllib.loads(text))


@pytest.mark.parametrize(("path", "overrides"), [c for c in CONFIGS if "cycle" not in c[0]], ids=lambda v: str(v)[:60])
def test_the_config_in_the_pods_is_the_user_s_but_for_labels_and_threads(path, overrides, project):
    kind = job_kind(read_values(path), "--kind")
    job = loaded(rendered(path, overrides)[0]["data"]["job.toml"], kind).model_dump()
    given = load_job(JOB_KINDS[kind], path, overrides).model_dump()
    for values in (job, given):
        for section in values.values():
            if isinstance(section, dict):
                section.pop("node_labels", None)
                section.pop("threads", None)
    assert job == given


def test_paths_stay_relative_because_the_volume_is_elsewhere_than_this_machine(project):
    values = tomllib.loads(rendered(PPO)[0]["data"]["job.toml"])
    assert values["data"]["prompts"] == "examples/data/prompts.jsonl"
    assert "directory" not in values["run"]


def test_roles_share_pods_and_ask_for_their_group(project):
    manifests = rendered(PPO)
    assert set(groups(manifests)) == {"rollout", "learner", "reward"}
    values = tomllib.loads(manifests[0]["data"]["job.toml"])
    found = {role: values[role]["node_labels"][GROUP_LABEL] for role in ("rollout", "critic", "reference")}
    assert found == {"rollout": "rollout", "critic": "learner", "reference": "reward"}


def test_roles_with_other_labels_than_their_group_get_pods_of_their_own(project):
    overrides = ["learner.node_labels.pool=h100", "critic.node_labels.pool=l4", "rollout.node_labels.pool=h100"]
    found = groups(rendered(PPO, overrides))
    assert found["learner"]["labels"] == {GROUP_LABEL: "learner", "pool": "h100"}
    assert found["critic"]["labels"] == {GROUP_LABEL: "critic", "pool": "l4"}
    assert found["rollout"]["labels"] == {GROUP_LABEL: "rollout", "pool": "h100"}


def test_learner_ranks_are_packed_by_gpus_or_spread(project):
    gpus = ["learner.gpus=1", "rollout.gpus=1", "learner.ranks=12"]
    assert sizes(groups(rendered(WITHOUT_CRITIC, gpus))["learner"])[::2] == (2, 6)
    assert sizes(groups(rendered(WITHOUT_CRITIC, gpus, gpus_per_node=4))["learner"])[::2] == (3, 4)
    assert sizes(groups(rendered(WITHOUT_CRITIC, [*gpus, "learner.spread=true"]))["learner"])[::2] == (12, 1)


def test_hosts_of_a_replica_come_and_go_together(project):
    overrides = ["learner.gpus=1", "rollout.gpus=1", "learner.ranks=16"]
    learner = groups(rendered(WITHOUT_CRITIC, overrides, hosts_per_replica=4))["learner"]
    assert (learner["replicas"], learner["numOfHosts"]) == (1, 4)
    assert sizes(learner)[::2] == (4, 4)
    with pytest.raises(ConfigError, match=r"hosts_per_replica = 3"):
        rendered(WITHOUT_CRITIC, overrides, hosts_per_replica=3, gpus_per_node=1)


def test_nodes_with_one_gpu_have_a_role_each(project):
    found = groups(rendered(GPUS, gpus_per_node=1))
    assert {name: sizes(group)[::2] for name, group in found.items()} == {
        "rollout": (4, 1), "learner": (4, 1), "critic": (4, 1), "reward": (2, 1),
    }  # fmt: skip
    with pytest.raises(ConfigError, match=r"gpus_per_node = 1"):
        rendered(GPUS, ["rollout.tensor_parallel=2"], gpus_per_node=1)


def test_rollout_and_reward_scale_and_the_learner_does_not(project):
    found = groups(rendered(PPO, ["rollout.workers=3"], pods={"rollout": {"max_pods": 10}}))
    assert (found["rollout"]["minReplicas"], found["rollout"]["maxReplicas"]) == (3, 10)
    assert (found["reward"]["minReplicas"], found["reward"]["maxReplicas"]) == (1, 2)
    assert found["learner"]["minReplicas"] == found["learner"]["maxReplicas"] == 1
    with pytest.raises(ConfigError, match=r"pods\.rollout\.max_pods = 2: the config needs 3"):
        rendered(PPO, ["rollout.workers=3"], pods={"rollout": {"max_pods": 2}})


def test_a_run_that_asks_a_reward_service_may_reach_it_and_is_let_in(project):
    manifests = rendered("examples/grpo_reward_url.toml", ["reward.url=http://reward-service-serve-svc:8000"])
    assert 8000 in ports_out(manifests)
    assert 8000 not in ports_out(rendered(PPO))
    labels = groups(manifests)["reward"]["template"]["metadata"]["labels"]
    service = one(rendered("examples/reward.toml", kind="reward-service"), "NetworkPolicy")
    peers = [peer for rule in service["spec"]["ingress"] for peer in rule["from"]]
    selectors = [peer["podSelector"]["matchLabels"] for peer in peers if "podSelector" in peer]
    assert any(selector.items() <= labels.items() for selector in selectors)


def ports_out(manifests):
    rules = one(manifests, "NetworkPolicy")["spec"]["egress"]
    return [port["port"] for rule in rules for port in rule.get("ports", [])]


def test_threads_share_the_pod_s_cpus_and_a_wish_stays_one(project):
    values = tomllib.loads(rendered(PPO, ["rollout.threads=7"], pods={"learner": {"cpus": 9}})[0]["data"]["job.toml"])
    assert values["learner"]["threads"] == 4
    assert values["rollout"]["threads"] == 7


@pytest.mark.parametrize("key", ["run.directory", "data.prompts", "model.path", "reward.model"])
def test_paths_that_are_not_on_the_volume_are_refused(key, project):
    with pytest.raises(ConfigError, match=rf"{re.escape(key)} = '/scratch/x' is not on the volume"):
        rendered(PPO, [f"{key}=/scratch/x"])
    with pytest.raises(ConfigError, match=r"data\.prompts = '/scratch/x'"):
        rendered("examples/cycle.toml", ["data.prompts=/scratch/x"])


def test_runs_may_be_anywhere_on_the_volume_and_models_of_services_are_there(project):
    rendered(PPO, ["run.directory=/rayrlhf/elsewhere"])
    with pytest.raises(ConfigError, match="reads its model from the volume"):
        rendered(PPO, ["run.directory=s3://bucket/runs"], "policy-service")


@pytest.mark.parametrize("name", ["7days", "a" * 48])
def test_a_name_that_kuberay_refuses_is_refused_here(name, project):
    with pytest.raises(ConfigError, match="change `name`"):
        rendered(PPO, [f"name={name}"])


def test_serve_takes_the_services_config_as_it_is(project):
    for kind, applications in (("policy-service", ["policy-a", "ingress"]), ("reward-service", ["reward"])):
        manifests = rendered(GPUS, kind=kind)
        config = ServeDeploySchema.model_validate(yaml.safe_load(one(manifests, "RayService")["spec"]["serveConfigV2"]))
        assert [application.name for application in config.applications] == applications


def test_a_cycle_s_service_is_started_with_settings_that_serve_takes(project):
    job = one(rendered("examples/cycle.toml", service={"replicas": 2, "enforce_eager": False}), "RayJob")
    words = job["spec"]["entrypoint"].split()
    assert words[2:7] == ["rayrlhf", "serve", "runs/sft/model", "--keep", "--address"]
    settings = settings_of(ServiceSettings, words[8:])
    assert settings.node_labels == {GROUP_LABEL: "policy"}
    assert (settings.replicas, settings.enforce_eager, settings.host) == (2, False, "0.0.0.0")
    assert settings.directory == "/rayrlhf/runs/service"


def test_all_stages_of_a_cycle_are_placed_and_the_learner_is_as_large_as_the_largest(project):
    manifests = rendered("examples/cycle.toml", ["sft.learner.ranks=8", "sft.learner.spread=true"])
    assert sizes(groups(manifests)["learner"])[0] == 8
    values = tomllib.loads(manifests[0]["data"]["job.toml"])
    for stage in ("sft", "reward", "rl"):
        assert values[stage]["learner"]["node_labels"] == {GROUP_LABEL: "learner"}
    assert "rollout" not in values["sft"]
    load = {**values, "sft": {**values["sft"], "learner": {"micro_batch_tokens": 1024}}}
    CycleJob.model_validate(load).check()


def test_a_timer_may_start_turns_and_watch_them_and_nothing_else(project):
    manifests = rendered("examples/cycle.toml")
    assert one(manifests, "Role")["rules"] == [
        {"apiGroups": ["ray.io"], "resources": ["rayjobs"], "verbs": ["create", "get", "list"]}
    ]
    assert one(manifests, "CronJob")["spec"]["concurrencyPolicy"] == "Forbid"
    kinds = [manifest["kind"] for manifest in rendered("examples/cycle.toml", cycle={"timer": "RayCronJob"})]
    assert "RayCronJob" in kinds
    assert not {"CronJob", "Role", "ServiceAccount"} & set(kinds)


def test_settings_are_checked_and_changed_one_by_one(project, tmp_path, capsys):
    file = tmp_path / "k8s.toml"
    file.write_text("[pods.learner]\ncpus = 16\n")
    settings = load_settings(str(file), ["namespace=team", "storage.size_gib=7"], "image:1")
    assert (settings.pods.learner.cpus, settings.namespace, settings.image) == (16, "team", "image:1")
    assert "7Gi" in as_yaml(render_volume(settings))
    assert main(["k8s", "render", PPO, "--set", "pods.learner.cpu=3"]) == 2
    assert "did you mean 'pods.learner.cpus'" in capsys.readouterr().err
    assert main(["k8s", "render", PPO, "--set", "pods.learner.max_pods=3"]) == 2
    assert "the learner does not scale" in capsys.readouterr().err


def test_a_wrong_config_is_exit_code_2_and_one_message(project, capsys):
    assert main(["k8s", "render", PPO, "rollout.worker=3"]) == 2
    assert "did you mean 'rollout.workers'" in capsys.readouterr().err
    assert main(["k8s", "render", "none.toml"]) == 2
    assert main(["k8s", "render"]) == 2
    assert "CONFIG is missing" in capsys.readouterr().err


def test_standard_output_has_what_a_folder_has(project, tmp_path, capsys):
    assert main(["k8s", "render", PPO]) == 0
    stream = list(yaml.safe_load_all(capsys.readouterr().out))
    assert main(["k8s", "render", PPO, "--to", str(tmp_path)]) == 0
    written = [yaml.safe_load((tmp_path / f"{doc['kind'].lower()}.yaml").read_text()) for doc in stream]
    assert stream == written
