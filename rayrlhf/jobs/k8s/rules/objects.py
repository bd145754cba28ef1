"""Which rules apply to which object, and those for everything around a Ray cluster."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence

import yaml

from rayrlhf.jobs.k8s.node import Node, Problem
from rayrlhf.jobs.k8s.rules.clusters import cluster_problems
from rayrlhf.jobs.k8s.rules.jobs import job_problems
from rayrlhf.jobs.k8s.rules.pods import pod_problems, secret_problems

LONGEST = {"RayCluster": 53, "RayJob": 47, "RayService": 47, "RayCronJob": 36, "CronJob": 52}
"""The operator, and CronJobs, add to these names to make others of at most 63 characters."""
NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
PRIVATE_PORTS = {6379: "GCS", 8265: "the dashboard and the job API", 10001: "Ray's client"}
_FIELD = re.compile(r"[\d*/,\-A-Za-z?]+")
_UPGRADES = ("NewCluster", "NewClusterWithIncrementalUpgrade", "None")


def rule_problems(manifest: Node) -> Iterator[Problem]:
    """What the rules say of an object."""
    kind = manifest["kind"].text
    yield from _name(manifest, kind)
    check = _CHECKS.get(kind)
    if check is not None:
        yield from check(manifest)


def set_problems(manifests: Sequence[Node]) -> Iterator[tuple[Node, Problem]]:
    """What is missing in a whole set, as one is applied: with the object that needs it."""
    policies = [
        m.at("spec", "podSelector", "matchLabels").value for m in manifests if m["kind"].text == "NetworkPolicy"
    ]
    maps = {m.at("metadata", "name").text for m in manifests if m["kind"].text == "ConfigMap"}
    for manifest in manifests:
        for spec in _cluster_specs(manifest):
            template = spec.at("headGroupSpec", "template")
            labels = template.at("metadata", "labels").value or {}
            if not any((selector or {}).items() <= labels.items() for selector in policies):
                message = "no NetworkPolicy here selects these pods: who is in the cluster reaches the job API"
                yield manifest, template.at("metadata", "labels").wrong(message)
            for volume in template.at("spec", "volumes").each():
                name = volume.at("configMap", "name")
                if name.text and name.text not in maps:
                    yield manifest, name.wrong(f"there is no ConfigMap {name.text} here")


def _cluster_specs(manifest: Node) -> Iterator[Node]:
    places = {
        "RayCluster": ("spec",),
        "RayJob": ("spec", "rayClusterSpec"),
        "RayService": ("spec", "rayClusterConfig"),
        "RayCronJob": ("spec", "jobTemplate", "rayClusterSpec"),
    }
    place = places.get(manifest["kind"].text)
    if place is not None and (spec := manifest.at(*place)).exists:
        yield spec


def _name(manifest: Node, kind: str) -> Iterator[Problem]:
    name = manifest.at("metadata", "name")
    if not name.text:
        if not manifest.at("metadata", "generateName").text:
            yield name.wrong("is missing")
        return
    longest = LONGEST.get(kind, 253)
    if len(name.text) > longest:
        yield name.wrong(f"{name.text!r} has {len(name.text)} characters: a {kind} has at most {longest}")
    if kind in LONGEST and not NAME.fullmatch(name.text):
        yield name.wrong(f"{name.text!r}: lower-case letters, digits and -, beginning with a letter, are expected")


def _ray_cluster(manifest: Node) -> Iterator[Problem]:
    yield from cluster_problems(manifest["spec"])


def _ray_job(manifest: Node) -> Iterator[Problem]:
    labels = manifest.at("metadata", "labels")
    is_service = labels["app.kubernetes.io/component"].value == "service"
    yield from job_problems(manifest["spec"], labels, is_service=is_service)


def _ray_cron_job(manifest: Node) -> Iterator[Problem]:
    spec = manifest["spec"]
    yield from _schedule(spec)
    if spec["concurrencyPolicy"].exists:
        message = "RayCronJob has none, and starts a job while the last one runs; a CronJob with Forbid does not"
        yield spec["concurrencyPolicy"].wrong(message)
    yield from job_problems(spec["jobTemplate"], Node(None))


def _cron_job(manifest: Node) -> Iterator[Problem]:
    spec = manifest["spec"]
    yield from _schedule(spec)
    if spec["concurrencyPolicy"].value != "Forbid":
        yield spec["concurrencyPolicy"].wrong("Forbid is expected: two turns at once train on the same words")
    if not spec["startingDeadlineSeconds"].exists:
        yield spec["startingDeadlineSeconds"].wrong("is missing: after 100 missed starts the timer would stop")
    job = spec.at("jobTemplate", "spec")
    if not job["activeDeadlineSeconds"].exists:
        yield job["activeDeadlineSeconds"].wrong("is missing: one that hangs would forbid all others")
    policy = job.at("template", "spec", "restartPolicy")
    if policy.value not in ("Never", "OnFailure"):
        yield policy.wrong("Never is expected")
    needs_token = bool(job.at("template", "spec", "serviceAccountName").text)
    yield from pod_problems(job["template"], is_ray=False, needs_token=needs_token)


def _schedule(spec: Node) -> Iterator[Problem]:
    text = spec["schedule"].text
    fields = text.split()
    if text.startswith("@"):
        return
    if len(fields) != 5 or not all(_FIELD.fullmatch(field) for field in fields):
        yield spec["schedule"].wrong(f"{text!r}: minute, hour, day, month and weekday are expected, as in 0 2 * * *")


def _ray_service(manifest: Node) -> Iterator[Problem]:
    spec = manifest["spec"]
    yield from cluster_problems(spec["rayClusterConfig"], is_service=True)
    yield from _serve_config(spec["serveConfigV2"])
    if spec["excludeHeadPodFromServeSvc"].value is not True:
        yield spec["excludeHeadPodFromServeSvc"].wrong("true is expected: the head takes no work")
    yield from _upgrade(spec)


def _serve_config(text: Node) -> Iterator[Problem]:
    yield from secret_problems(text)
    try:
        config = Node(yaml.safe_load(text.text), text.path)
    except yaml.YAMLError as error:
        yield text.wrong(f"not YAML: {' '.join(str(error).split())}")
        return
    if not config["applications"].value:
        yield config["applications"].wrong("at least one application is expected")
    for application in config["applications"].each():
        if ":" not in application["import_path"].text:
            yield application["import_path"].wrong("package.module:name of a builder is expected")
    if config.at("http_options", "host").text in ("127.0.0.1", "localhost"):
        yield config.at("http_options", "host").wrong("nobody outside the pod reaches it: 0.0.0.0 is expected")


def _upgrade(spec: Node) -> Iterator[Problem]:
    strategy = spec["upgradeStrategy"]
    if strategy["type"].value not in _UPGRADES:
        yield strategy["type"].wrong(f"{strategy['type'].value!r}: one of {', '.join(_UPGRADES)} is expected")
    if strategy["type"].value != "NewClusterWithIncrementalUpgrade":
        return
    options = strategy["clusterUpgradeOptions"]
    scales = spec.at("rayClusterConfig", "enableInTreeAutoscaling")
    if not scales.value:
        yield scales.wrong("true is expected with NewClusterWithIncrementalUpgrade")
    if not options["gatewayClassName"].text:
        yield options["gatewayClassName"].wrong("is missing: traffic moves through a Gateway")
    for key in ("stepSizePercent", "maxSurgePercent"):
        percent = options[key].number
        if (percent is None and key == "stepSizePercent") or (percent is not None and not 0 <= percent <= 100):
            yield options[key].wrong(f"{percent}: 0 to 100 is expected")
    if not (options["intervalSeconds"].number or 0) > 0:
        yield options["intervalSeconds"].wrong("a positive number is expected")


def _network_policy(manifest: Node) -> Iterator[Problem]:
    spec = manifest["spec"]
    if "Ingress" not in (spec["policyTypes"].value or []):
        yield spec["policyTypes"].wrong("Ingress is expected: else everybody may connect")
    for rule in spec["ingress"].each():
        if not rule["from"].value:
            yield rule["from"].wrong("is missing: everybody may connect")
        for peer in rule["from"].each():
            if peer.at("ipBlock", "cidr").text.endswith("/0"):
                yield peer.at("ipBlock", "cidr").wrong("is everybody")


def _role(manifest: Node) -> Iterator[Problem]:
    for rule in manifest["rules"].each():
        for key in ("verbs", "resources", "apiGroups"):
            if "*" in (rule[key].value or []):
                yield rule[key].wrong("* is everything: name what is needed")
        if "secrets" in (rule["resources"].value or []):
            yield rule["resources"].wrong("secrets are mounted, not read through the API server")


def _service(manifest: Node) -> Iterator[Problem]:
    spec = manifest["spec"]
    if spec["type"].value in (None, "ClusterIP"):
        return
    for port in spec["ports"].each():
        if port["port"].number in PRIVATE_PORTS:
            what = PRIVATE_PORTS[port["port"].number or 0]
            yield port["port"].wrong(f"a {spec['type'].value} publishes {what}: ClusterIP is expected")


def _secret(manifest: Node) -> Iterator[Problem]:
    for key in ("data", "stringData"):
        if manifest[key].value:
            yield manifest[key].wrong("a secret in a file: kubectl create secret makes it")


_CHECKS: Mapping[str, Callable[[Node], Iterator[Problem]]] = {
    "RayCluster": _ray_cluster,
    "RayJob": _ray_job,
    "RayCronJob": _ray_cron_job,
    "RayService": _ray_service,
    "CronJob": _cron_job,
    "NetworkPolicy": _network_policy,
    "Role": _role,
    "ClusterRole": _role,
    "Service": _service,
    "Secret": _secret,
}
