"""Mistakes in manifests that are right otherwise: each is found, and named by file, path and what to change."""

import copy

import pytest
import yaml

from rayrlhf.cli import main
from rayrlhf.jobs.k8s.render import render
from rayrlhf.jobs.k8s.settings import KubernetesSettings

CLUSTER, GROUP = "spec.rayClusterSpec", "spec.rayClusterSpec.workerGroupSpecs[1]"
POD = f"{GROUP}.template.spec"
REMOVE = object()


def change(value, *keys):
    """A mistake: what it makes of a manifest."""

    def plant(manifest):
        *way, last = keys
        for key in way:
            manifest = manifest[key]
        if value is REMOVE:
            del manifest[last]
        else:
            manifest[last] = value

    return plant


def both(*plants):
    def plant(manifest):
        for each in plants:
            each(manifest)

    return plant


C = ("spec", "rayClusterSpec")
G = (*C, "workerGroupSpecs", 1)
P = (*G, "template", "spec")
H = (*C, "headGroupSpec")
BOX = (*P, "containers", 0)
D = ("spec", "deletionStrategy", "deletionRules")
JOB = [
    ("misspelt key", change(1, *G, "replica"), f"{GROUP}.replica", "did you mean replicas?"),
    ("misspelt key of a pod", change([], *BOX, "volumeMount"), f"{POD}.containers[0].volumeMount", "volumeMounts"),
    ("wrong type", change("many", *G, "replicas"), f"{GROUP}.replicas", "integer is expected"),
    ("unknown value", change("tokens", *C, "authOptions", "mode"), f"{CLUSTER}.authOptions.mode", "token"),
    ("name too long", change("x" * 48, "metadata", "name"), "metadata.name", "at most 47"),
    ("name that is no name", change("My_Run", "metadata", "name"), "metadata.name", "lower-case"),
    ("no authentication", change(REMOVE, *C, "authOptions"), f"{CLUSTER}.authOptions.mode", "token is expected"),
    ("no secret", change({"mode": "token"}, *C, "authOptions"), f"{CLUSTER}.authOptions.secretName", "auth_token"),
    ("no Ray version", change(REMOVE, *C, "rayVersion"), f"{CLUSTER}.rayVersion", "is missing"),
    ("old Ray", change("2.9.0", *C, "rayVersion"), f"{CLUSTER}.rayVersion", "2.52"),
    ("head that works", change("4", *H, "rayStartParams", "num-cpus"), "num-cpus", '"0" is expected'),
    ("published head", change("LoadBalancer", *H, "serviceType"), f"{CLUSTER}.headGroupSpec.serviceType", "ClusterIP"),
    ("labels in rayStartParams", change("a=b", *G, "rayStartParams", "labels"),
     f"{GROUP}.rayStartParams.labels", "move"),
    ("resources twice", both(change("1", *G, "rayStartParams", "num-cpus"), change({"CPU": "1"}, *G, "resources")),
     f"{GROUP}.rayStartParams.num-cpus", "one of them"),
    ("no labels", change(REMOVE, *G, "labels"), f"{GROUP}.labels", "is missing"),
    ("label that is none", change({"a b": "c"}, *G, "labels"), f'{GROUP}.labels["a b"]', "not a label"),
    ("learner that scales", change(5, *G, "maxReplicas"), f"{GROUP}.maxReplicas", "one group"),
    ("bounds crossed", change(9, *C, "workerGroupSpecs", 0, "minReplicas"), "minReplicas", "more than maxReplicas"),
    ("replicas out of bounds", change(99, *C, "workerGroupSpecs", 0, "replicas"), "replicas", "not between"),
    ("no bounds", change(REMOVE, *G, "minReplicas"), f"{GROUP}.minReplicas", "is missing"),
    ("autoscaler v1", change("v1", *C, "autoscalerOptions", "version"), "autoscalerOptions.version", "v2 is expected"),
    ("range without autoscaler", change(False, *C, "enableInTreeAutoscaling"),
     "workerGroupSpecs[0].maxReplicas", "never grows"),
    ("group twice", change("rollout", *G, "groupName"), f"{GROUP}.groupName", "there twice"),
    ("restarting pods", change("Always", *P, "restartPolicy"), f"{POD}.restartPolicy", "Never"),
    ("fault tolerance of a job", change({"redisAddress": "r:6379"}, *C, "gcsFaultToleranceOptions"),
     "gcsFaultToleranceOptions", "RayService"),
    ("no /dev/shm", change([], *BOX, "volumeMounts"), f"{POD}.containers[0].volumeMounts", "/dev/shm"),
    ("/dev/shm on a disk", change({"sizeLimit": "1Gi"}, *P, "volumes", 1, "emptyDir"),
     f"{POD}.volumes[1].emptyDir.medium", "Memory"),
    ("/dev/shm too large", change("999Gi", *P, "volumes", 1, "emptyDir", "sizeLimit"),
     "sizeLimit", "part of the memory"),
    ("root", change(0, *P, "securityContext", "runAsUser"), f"{POD}.securityContext.runAsUser", "root"),
    ("may be root", change(REMOVE, *P, "securityContext", "runAsNonRoot"), "runAsNonRoot", "true is expected"),
    ("no seccomp", change(REMOVE, *P, "securityContext", "seccompProfile"), "seccompProfile.type", "RuntimeDefault"),
    ("capabilities", change([], *BOX, "securityContext", "capabilities", "drop"), "capabilities.drop", '["ALL"]'),
    ("privileged", change(True, *BOX, "securityContext", "privileged"), "securityContext.privileged", "owns its node"),
    ("host network", change(True, *P, "hostNetwork"), f"{POD}.hostNetwork", "remove the key"),
    ("no memory limit", change(REMOVE, *BOX, "resources", "limits", "memory"), "resources.limits.memory", "is missing"),
    ("no requests", change(REMOVE, *BOX, "resources", "requests"), "resources.requests.cpu", "is missing"),
    ("request over limit", change("999Gi", *BOX, "resources", "requests", "memory"),
     "resources.requests.memory", "more than the limit"),
    ("shared GPU", change("1", *BOX, "resources", "requests", "nvidia.com/gpu"),
     'requests["nvidia.com/gpu"]', "not shared"),
    ("image without a version", change("rayrlhf", *BOX, "image"), f"{POD}.containers[0].image", "version"),
    ("secret in a variable", change([{"name": "HF_TOKEN", "value": "hf_x"}], *BOX, "env"),
     "env[0].value", "secretKeyRef"),
    ("password in a URL", change([{"name": "STORE", "value": "postgresql://me:word@db/x"}], *BOX, "env"),
     "env[0].value", "password"),
    ("worker with an account", change(True, *P, "automountServiceAccountToken"),
     "automountServiceAccountToken", "false"),
    ("runs inside the pod", change({"name": "runs", "emptyDir": {}}, *P, "volumes", 0),
     f"{POD}.volumes", "outlives the pod"),
    ("no resume", change("rayrlhf rl x.toml", "spec", "entrypoint"), "spec.entrypoint", "--resume auto"),
    ("shell in the entrypoint", change("cd x && rayrlhf rl x --resume auto", "spec", "entrypoint"),
     "spec.entrypoint", "&&"),
    ("driver on the head", change(REMOVE, "spec", "entrypointNumCpus"), "spec.entrypointNumCpus", "1 is expected"),
    ("no deadline", change(REMOVE, "spec", "activeDeadlineSeconds"), "spec.activeDeadlineSeconds", "is missing"),
    ("no deadline to start", change(REMOVE, "spec", "preRunningDeadlineSeconds"),
     "spec.preRunningDeadlineSeconds", "is missing"),
    ("suspend without shutdown", change(True, "spec", "suspend"), "spec.shutdownAfterJobFinishes", "true is expected"),
    ("deletion rules with shutdown", change(True, "spec", "shutdownAfterJobFinishes"),
     "spec.shutdownAfterJobFinishes", "excludes"),
    ("ttl without shutdown", change(60, "spec", "ttlSecondsAfterFinished"),
     "spec.ttlSecondsAfterFinished", "shutdownAfterJobFinishes"),
    ("nothing is deleted", change(REMOVE, "spec", "deletionStrategy"), "spec.deletionStrategy", "would stay"),
    ("two conditions", change("Failed", *D, 0, "condition", "jobDeploymentStatus"),
     "deletionRules[0].condition", "one of"),
    ("rule twice", change("DeleteCluster", *D, 2, "policy"), "deletionRules[2]", "there twice"),
    ("job gone before its cluster", change(1, *D, 2, "condition", "ttlSeconds"),
     "deletionRules[2].condition.ttlSeconds", "before DeleteCluster"),
    ("workers deleted under the autoscaler", change("DeleteWorkers", *D, 0, "policy"),
     "deletionRules[0].policy", "DeleteCluster is expected"),
    ("cluster of its own and another", change({"ray.io/cluster": "x"}, "spec", "clusterSelector"), CLUSTER, "either"),
    ("queue without suspend", change({"kueue.x-k8s.io/queue-name": "q"}, "metadata", "labels"),
     "spec.suspend", "Kueue"),
    ("interactive", change("InteractiveMode", "spec", "submissionMode"), "spec.submissionMode", "K8sJobMode"),
    ("submitter of KubeRay's own", change(REMOVE, "spec", "submitterPodTemplate"),
     "spec.submitterPodTemplate", "is missing"),
]  # fmt: skip
SERVICE = [
    ("wrong upgrade", change("BlueGreen", "spec", "upgradeStrategy", "type"),
     "spec.upgradeStrategy.type", "NewCluster"),
    ("upgrade without a gateway", change({"type": "NewClusterWithIncrementalUpgrade"}, "spec", "upgradeStrategy"),
     "clusterUpgradeOptions.gatewayClassName", "is missing"),
    ("head that serves", change(False, "spec", "excludeHeadPodFromServeSvc"), "excludeHeadPodFromServeSvc", "true"),
    ("no application", change("applications: []", "spec", "serveConfigV2"),
     "serveConfigV2.applications", "at least one"),
    ("no YAML", change("a: [", "spec", "serveConfigV2"), "spec.serveConfigV2", "not YAML"),
    ("password in Serve's config", change("store: pg://me:word@db/x", "spec", "serveConfigV2"),
     "spec.serveConfigV2", "password"),
]  # fmt: skip
TURN = ("spec", "jobTemplate", "spec")
TIMER = [
    ("two turns at once", change("Allow", "spec", "concurrencyPolicy"), "spec.concurrencyPolicy", "Forbid"),
    ("no schedule", change("daily at two", "spec", "schedule"), "spec.schedule", "minute, hour"),
    ("a turn without an end", change(REMOVE, *TURN, "activeDeadlineSeconds"), "activeDeadlineSeconds", "is missing"),
    ("misspelt in a CronJob's pod", change([], *TURN, "template", "spec", "container"),
     "template.spec.container", "containers"),
]  # fmt: skip
OTHERS = [
    ("RayCronJob", "concurrency of a RayCronJob", change("Forbid", "spec", "concurrencyPolicy"),
     "spec.concurrencyPolicy", "RayCronJob has none"),
    ("RayCronJob", "cluster that is not the job's", change("DeleteCluster", "spec", "jobTemplate", *D[1:], 0, "policy"),
     "deletionRules[0].policy", "not the job's"),
    ("NetworkPolicy", "open to all", change([{}], "spec", "ingress"), "spec.ingress[0].from", "everybody"),
    ("NetworkPolicy", "misspelt in a rule", change([{"from": [{"podselector": {}}]}], "spec", "ingress"),
     "podselector", "podSelector"),
    ("Role", "all rights", change(["*"], "rules", 0, "verbs"), "rules[0].verbs", "name what is needed"),
    ("Service", "published job API", change({"type": "NodePort", "ports": [{"port": 8265}]}, "spec"),
     "spec.ports[0].port", "ClusterIP"),
    ("RayCluster", "cluster's name too long", change("x" * 54, "metadata", "name"), "metadata.name", "at most 53"),
    ("RayCluster", "no such kind", change("RayJobs", "kind"), "kind", "is not known"),
]  # fmt: skip


@pytest.fixture(scope="module")
def right():
    """Manifests without a mistake, by kind."""
    found = {}
    for path, kind, settings in (
        ("examples/cycle.toml", None, {"cycle": {"timer": "RayCronJob"}}),
        ("examples/cycle.toml", None, {}),
        ("examples/ppo_gpus.toml", "policy-service", {}),
        ("examples/ppo_gpus.toml", None, {}),
    ):
        for manifest in render(path, [], KubernetesSettings.model_validate(settings), kind):
            found[manifest.kind] = manifest.manifest()
    return found


def check(manifest, crds, tmp_path, capsys):
    file = tmp_path / "manifest.yaml"
    file.write_text(yaml.safe_dump(manifest))
    code = main(["k8s", "check", str(file), *(["--crds", crds] if crds else [])])
    return code, file, capsys.readouterr().out.splitlines()


@pytest.mark.parametrize(
    ("kind", "mistake", "plant", "path", "words"),
    [("RayJob", *each) for each in JOB]
    + [("RayService", *each) for each in SERVICE]
    + [("CronJob", *each) for each in TIMER]
    + OTHERS,
)
def test_it_is_found_and_named(kind, mistake, plant, path, words, right, project, crds, tmp_path, capsys):
    manifest = copy.deepcopy(right[kind])
    plant(manifest)
    code, file, lines = check(manifest, crds, tmp_path, capsys)
    assert code == 2
    named = [line for line in lines if line.startswith(f"{file}: ") and words in line]
    assert any(f"{path}: " in line for line in named), (mistake, lines)


@pytest.mark.parametrize(
    "kind", ["RayJob", "RayService", "RayCluster", "RayCronJob", "CronJob", "NetworkPolicy", "Role"]
)
def test_without_a_mistake_there_is_nothing(kind, right, project, crds, tmp_path, capsys):
    code, _, lines = check(right[kind], crds, tmp_path, capsys)
    assert (code, lines) == (0, ["1 manifest, no mistakes"])


def test_rules_need_no_schemas_and_it_is_said_that_there_were_none(right, project, tmp_path, capsys):
    manifest = copy.deepcopy(right["RayJob"])
    change(REMOVE, *C, "authOptions")(manifest)
    change(1, *G, "replica")(manifest)
    code, _, lines = check(manifest, None, tmp_path, capsys)
    assert code == 2
    assert len(lines) == 2
    assert "authOptions.mode" in lines[0]
    assert "SCHEMAS WERE NOT CHECKED" in lines[1]
