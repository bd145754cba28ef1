"""The operator's rules for RayJobs, and ours: retries go on from what was saved, everything ends, nothing stays."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rayrlhf.jobs.k8s.node import Node, Problem
from rayrlhf.jobs.k8s.rules.clusters import cluster_problems
from rayrlhf.jobs.k8s.rules.pods import pod_problems, secret_problems

QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
_TRAINS = re.compile(r"\brayrlhf (rl|sft|reward)\b")
_SHELL = re.compile(r"&&|\|\||[;|<>`]|\$\(")
_STORE = re.compile(r"\brun\.directory=(s3|s3a|gs|gcs|abfs|az)://")
_ORDER = ("DeleteWorkers", "DeleteCluster", "DeleteSelf")


def job_problems(spec: Node, labels: Node, *, is_service: bool = False) -> Iterator[Problem]:
    """Of a RayJobSpec with its object's labels; `is_service`: it is not meant to end."""
    yield from _entrypoint(spec)
    yield from _deadlines(spec, is_service)
    yield from _suspension(spec, labels)
    yield from _end(spec, is_service)
    yield from _deletion_rules(spec)
    selects, cluster = spec["clusterSelector"], spec["rayClusterSpec"]
    if bool(selects.value) == bool(cluster.value):
        yield cluster.wrong("either rayClusterSpec or clusterSelector is expected")
    if selects.exists and not selects["ray.io/cluster"].text:
        yield selects["ray.io/cluster"].wrong("is missing: the cluster's name")
    if cluster.exists:
        yield from cluster_problems(cluster)
        yield from _storage(spec)
    submitter = spec["submitterPodTemplate"]
    if submitter.exists:
        policy = submitter.at("spec", "restartPolicy")
        if policy.value not in ("Never", "OnFailure"):
            yield policy.wrong("Never is expected: a Kubernetes job's pods do not always start again")
        yield from pod_problems(submitter, is_ray=False)
    elif spec["submissionMode"].value in (None, "K8sJobMode"):
        yield submitter.wrong("is missing: KubeRay's own has no securityContext and small limits")


def _entrypoint(spec: Node) -> Iterator[Problem]:
    entrypoint = spec["entrypoint"]
    if not entrypoint.text:
        yield entrypoint.wrong("is missing")
    yield from secret_problems(entrypoint)
    yield from secret_problems(spec["runtimeEnvYAML"])
    if shell := _SHELL.search(entrypoint.text):
        message = f"{shell[0]} would be the submitter's shell's: one plain command is expected (env --chdir=… for cd)"
        yield entrypoint.wrong(message)
    if _TRAINS.search(entrypoint.text) and "--resume auto" not in entrypoint.text:
        yield entrypoint.wrong(
            "--resume auto is expected: each retry has a new cluster and goes on from what was saved"
        )
    cpus = spec["entrypointNumCpus"]
    if not isinstance(cpus.value, int | float) or cpus.value < 1:
        yield cpus.wrong("1 is expected: else the driver runs in the head, where no CPUs are counted")
    if spec["entrypointNumGpus"].value:
        yield spec["entrypointNumGpus"].wrong("the driver needs no GPU; remove the key")


def _deadlines(spec: Node, is_service: bool) -> Iterator[Problem]:
    active = spec["activeDeadlineSeconds"]
    if not active.exists and not is_service:
        yield active.wrong("is missing: a job whose head is gone would stay Running for ever")
    elif active.number is not None and active.number <= 0:
        yield active.wrong(f"{active.number}: a positive number is expected")
    if not spec["preRunningDeadlineSeconds"].number:
        yield spec["preRunningDeadlineSeconds"].wrong("is missing: pods that find no node would wait for ever")
    retries, mode = spec["backoffLimit"], spec["submissionMode"]
    if retries.number is not None and retries.number < 0:
        yield retries.wrong(f"{retries.number}: 0 or more is expected")
    if mode.value not in (None, "K8sJobMode"):
        yield mode.wrong(f"{mode.value}: K8sJobMode is expected; its submitter outlives the head and has the logs")


def _suspension(spec: Node, labels: Node) -> Iterator[Problem]:
    shuts_down = spec["shutdownAfterJobFinishes"]
    if spec["suspend"].value and not shuts_down.value:
        yield shuts_down.wrong("true is expected with suspend")
    if spec["suspend"].value and spec["clusterSelector"].exists:
        yield spec["suspend"].wrong("a job on a cluster that is there cannot be suspended; remove the key")
    queue = labels[QUEUE_LABEL]
    if queue.exists and not spec["suspend"].value:
        yield spec["suspend"].wrong(f"true is expected with the label {QUEUE_LABEL}: Kueue starts the job")
    scales = spec.at("rayClusterSpec", "enableInTreeAutoscaling")
    if queue.exists and scales.value:
        yield scales.wrong("false is expected with Kueue, which admits a job of a fixed size")


def _end(spec: Node, is_service: bool) -> Iterator[Problem]:
    """That something is deleted at the end, in one of KubeRay's two ways."""
    shuts_down, ttl = spec["shutdownAfterJobFinishes"], spec["ttlSecondsAfterFinished"]
    strategy = spec["deletionStrategy"]
    rules = strategy["deletionRules"]
    if shuts_down.value and rules.value:
        yield shuts_down.wrong("excludes deletionStrategy.deletionRules: choose one")
    if ttl.value and not shuts_down.value:
        yield ttl.wrong("needs shutdownAfterJobFinishes: true")
    legacy = [strategy[key] for key in ("onSuccess", "onFailure") if strategy[key].exists]
    if legacy and rules.value:
        yield legacy[0].wrong("excludes deletionRules: choose one")
    elif len(legacy) == 1 or (strategy.exists and not legacy and not rules.value):
        yield strategy.wrong("deletionRules, or both onSuccess and onFailure, are expected")
    if not strategy.exists and not shuts_down.value and not is_service:
        yield strategy.wrong("is missing: the cluster and its GPUs would stay after the job's end")


def _deletion_rules(spec: Node) -> Iterator[Problem]:
    times: dict[tuple[str, str], int] = {}
    for rule in spec.at("deletionStrategy", "deletionRules").each():
        policy, condition = rule["policy"], rule["condition"]
        states = [condition[key] for key in ("jobStatus", "jobDeploymentStatus") if condition[key].exists]
        if len(states) != 1:
            yield condition.wrong("one of jobStatus and jobDeploymentStatus is expected")
            continue
        if policy.value in ("DeleteCluster", "DeleteWorkers") and spec["clusterSelector"].exists:
            yield policy.wrong(f"{policy.value}: the cluster is not the job's; DeleteSelf or DeleteNone is expected")
        if policy.value == "DeleteWorkers" and spec.at("rayClusterSpec", "enableInTreeAutoscaling").value:
            yield policy.wrong("DeleteWorkers does not work with the autoscaler: DeleteCluster is expected")
        key = (states[0].text, policy.text)
        if key in times:
            yield rule.wrong(f"{policy.text} after {states[0].text} is there twice")
        times[key] = condition["ttlSeconds"].number or 0
        yield from _too_early(rule, key, times)


def _too_early(rule: Node, key: tuple[str, str], times: dict[tuple[str, str], int]) -> Iterator[Problem]:
    """What holds the others may not go before them."""
    state, policy = key
    for other in _ORDER[: _ORDER.index(policy)] if policy in _ORDER else ():
        if times.get((state, other), 0) > times[key]:
            message = f"{times[key]}: {policy} before {other} ({times[state, other]})"
            yield rule.at("condition", "ttlSeconds").wrong(message)


def _storage(spec: Node) -> Iterator[Problem]:
    """That what is saved outlives the pods."""
    if _STORE.search(spec["entrypoint"].text) or not _TRAINS.search(spec["entrypoint"].text):
        return
    for group in spec.at("rayClusterSpec", "workerGroupSpecs").each():
        volumes = group.at("template", "spec", "volumes")
        kept = ("persistentVolumeClaim", "csi", "nfs")
        if not any(volume[kind].exists for volume in volumes.each() for kind in kept):
            message = "no volume that outlives the pod: mount a PersistentVolumeClaim, or run.directory=s3://…"
            yield volumes.wrong(message)
