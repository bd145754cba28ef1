"""The operator's rules for a Ray cluster, and ours: no work on the head, a token, labels, bounds."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rayrlhf.jobs.k8s.node import Node, Problem
from rayrlhf.jobs.k8s.rules.pods import pod_problems

LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
LABEL_KEY = re.compile(r"([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
FIRST_WITH_TOKENS = (2, 52)
FIXED = ("learner", "critic")
"""Their ranks are one group: a rank more or less is another group."""


def cluster_problems(spec: Node, *, is_service: bool = False) -> Iterator[Problem]:
    """Of a RayClusterSpec, wherever it is."""
    yield from _token(spec)
    yield from _autoscaler(spec)
    yield from _head(spec["headGroupSpec"])
    names: set[str] = set()
    for group in spec["workerGroupSpecs"].each():
        name = group["groupName"].text
        if not name or name in names:
            yield group["groupName"].wrong(f"{name!r} is there twice" if name else "is missing")
        names.add(name)
        yield from _worker_group(group, scales=bool(spec["enableInTreeAutoscaling"].value))
    if not names:
        yield spec["workerGroupSpecs"].wrong("no workers, and the head takes no work")
    if spec["gcsFaultToleranceOptions"].exists and not is_service:
        message = "is for RayService: a job is retried with a new cluster, and Redis would outlive it; remove the key"
        yield spec["gcsFaultToleranceOptions"].wrong(message)


def _token(spec: Node) -> Iterator[Problem]:
    auth = spec["authOptions"]
    if auth["mode"].value != "token":
        yield auth["mode"].wrong("token is expected: who reaches an open cluster runs code on it")
    elif not auth["secretName"].text:
        yield auth["secretName"].wrong("is missing: the name of a secret with the token under auth_token")
    version = spec["rayVersion"]
    numbers = re.match(r"(\d+)\.(\d+)", version.text)
    if numbers is None:
        yield version.wrong("is missing: token authentication needs it, as in 2.60.0")
    elif (int(numbers[1]), int(numbers[2])) < FIRST_WITH_TOKENS:
        yield version.wrong(f"{version.text}: tokens need Ray 2.52 or later")


def _autoscaler(spec: Node) -> Iterator[Problem]:
    if not spec["enableInTreeAutoscaling"].value:
        return
    options = spec["autoscalerOptions"]
    if options["version"].value != "v2":
        yield options["version"].wrong("v2 is expected: v1 does not know placement by labels")
    for side in ("requests", "limits"):
        for what in ("cpu", "memory"):
            if not options["resources"][side][what].exists:
                yield options["resources"][side][what].wrong("is missing: the autoscaler is a container of the head")
    for template in _templates(spec):
        policy = template.at("spec", "restartPolicy")
        if policy.value not in (None, "Never"):
            yield policy.wrong(f"{policy.value}: the autoscaler needs Never, or no restartPolicy")
        for container in template.at("spec", "containers").each():
            for variable in container["env"].each():
                if variable["name"].value == "RAY_enable_autoscaler_v2":
                    yield variable["name"].wrong("autoscalerOptions.version says it already: remove the variable")


def _templates(spec: Node) -> Iterator[Node]:
    yield spec.at("headGroupSpec", "template")
    for group in spec["workerGroupSpecs"].each():
        yield group["template"]


def _head(head: Node) -> Iterator[Problem]:
    yield from _start_parameters(head)
    parameters = head["rayStartParams"]
    if parameters["num-cpus"].value != "0" and head.at("resources", "CPU").value != "0":
        message = '"0" is expected: a head that works dies with its work, and everybody with it'
        yield parameters["num-cpus"].wrong(message)
    if parameters["num-gpus"].value not in (None, "0"):
        yield parameters["num-gpus"].wrong("the head takes no work; remove the key")
    if head["serviceType"].value not in (None, "ClusterIP"):
        message = f"{head['serviceType'].value} publishes the dashboard and the job API: ClusterIP is expected"
        yield head["serviceType"].wrong(message)
    if head["enableIngress"].value:
        yield head["enableIngress"].wrong("publishes the dashboard and the job API; remove the key")
    yield from pod_problems(head["template"], is_ray=True, needs_token=True)


def _start_parameters(group: Node) -> Iterator[Problem]:
    parameters = group["rayStartParams"]
    if parameters["labels"].exists:
        yield parameters["labels"].wrong(f"KubeRay refuses labels here: move them to {group.path}.labels")
    for key in ("num-cpus", "num-gpus", "memory", "resources"):
        if parameters[key].exists and group["resources"].exists:
            yield parameters[key].wrong(f"{group.path}.resources says it too, and KubeRay takes one of them")
    if parameters["redis-password"].exists:
        yield parameters["redis-password"].wrong("a secret: use gcsFaultToleranceOptions.redisPassword.valueFrom")


def _worker_group(group: Node, *, scales: bool) -> Iterator[Problem]:
    yield from _start_parameters(group)
    if not group["labels"].value:
        yield group["labels"].wrong("is missing: roles find their pods by it, as in rayrlhf/group: rollout")
    for key, value in group["labels"].entries():
        if not LABEL_KEY.fullmatch(key) or not LABEL_VALUE.fullmatch(str(value.value)):
            yield value.wrong(f"{key}: {value.value}: not a label as Kubernetes has them")
    yield from _bounds(group, scales)
    if group["suspend"].value and scales:
        yield group["suspend"].wrong("a group cannot be suspended while the autoscaler is on; remove the key")
    yield from pod_problems(group["template"], is_ray=True)


def _bounds(group: Node, scales: bool) -> Iterator[Problem]:
    for key in ("minReplicas", "maxReplicas"):
        if group[key].number is None:
            yield group[key].wrong("is missing: the API server would fill in 0 and 2147483647")
    fewest, most, now = (group[key].number for key in ("minReplicas", "maxReplicas", "replicas"))
    if fewest is None or most is None:
        return
    if not fewest <= most:
        yield group["minReplicas"].wrong(f"{fewest} is more than maxReplicas = {most}")
    elif now is not None and not fewest <= now <= most:
        yield group["replicas"].wrong(f"{now} is not between minReplicas = {fewest} and maxReplicas = {most}")
    if group["groupName"].text in FIXED and fewest != most:
        yield group["maxReplicas"].wrong(
            f"{most} is not minReplicas = {fewest}: the ranks are one group and cannot grow"
        )
    elif fewest != most and not scales:
        yield group["maxReplicas"].wrong("without enableInTreeAutoscaling the group never grows: make it minReplicas")
    if (hosts := group["numOfHosts"].number) is not None and hosts < 1:
        yield group["numOfHosts"].wrong(f"{hosts}: at least 1 is expected")
