"""The Ray cluster of a run, and who may reach it."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version

from rayrlhf.jobs.k8s.groups import Group
from rayrlhf.jobs.k8s.objects import (
    Egress,
    Ingress,
    Metadata,
    NetworkPolicy,
    NetworkPolicySpec,
    NetworkPort,
    Peer,
    Selector,
)
from rayrlhf.jobs.k8s.pods import CLIENT_LABEL, RUN_LABEL, PodMaker, resources, unprivileged
from rayrlhf.jobs.k8s.ray_objects import AuthOptions, AutoscalerOptions, HeadGroup, RayClusterSpec, WorkerGroup
from rayrlhf.jobs.k8s.settings import SERVE_PORT, KubernetesSettings

NAMESPACE_LABEL = "kubernetes.io/metadata.name"
DASHBOARD_PORTS = (8265, 52365)


def ray_cluster(pods: PodMaker, groups: Sequence[Group]) -> RayClusterSpec:
    """A head without work and the groups. Groups that cannot grow have equal bounds."""
    settings = pods.settings
    return RayClusterSpec(
        ray_version=version("ray"),
        auth_options=AuthOptions(secret_name=settings.token_secret),
        enable_in_tree_autoscaling=True,
        autoscaler_options=AutoscalerOptions(
            idle_timeout_seconds=settings.idle_timeout_s,
            resources=resources(1, "1Gi", request_cpus="200m"),
            security_context=unprivileged(),
        ),
        head_group_spec=HeadGroup(
            ray_start_params={"num-cpus": "0", "dashboard-host": "0.0.0.0"},
            template=pods.head(),
        ),
        worker_group_specs=[_worker_group(pods, group) for group in groups],
    )


def _worker_group(pods: PodMaker, group: Group) -> WorkerGroup:
    hosts = pods.settings.hosts_per_replica if group.name == "learner" else 1
    return WorkerGroup(
        group_name=group.name,
        replicas=group.pods // hosts,
        min_replicas=group.pods // hosts,
        max_replicas=group.max_pods // hosts,
        num_of_hosts=hosts,
        labels=dict(group.labels),
        ray_start_params={},
        template=pods.worker(group),
    )


def network_policy(name: str, settings: KubernetesSettings, *, serves: bool, asks: int | None = None) -> NetworkPolicy:
    """The run's pods reach each other; the operator reaches the dashboard; clients reach a service; no one else.

    `serves`: it is a service; `asks`: the port of one that the run asks.
    """
    own = Peer(pod_selector=Selector(match_labels={RUN_LABEL: name}))
    operator = Peer(namespace_selector=Selector(match_labels={NAMESPACE_LABEL: settings.operator_namespace}))
    ingress = [
        Ingress(from_=[own]),
        Ingress(from_=[operator], ports=[NetworkPort(port=port) for port in (*DASHBOARD_PORTS, SERVE_PORT)]),
    ]
    if serves:
        client = Peer(pod_selector=Selector(match_labels={CLIENT_LABEL: "true"}))
        ingress.append(Ingress(from_=[client], ports=[NetworkPort(port=SERVE_PORT)]))
    names = [NetworkPort(port=53, protocol="UDP"), NetworkPort(port=53)]
    outside = [NetworkPort(port=port) for port in (443, 6443, *((5432,) if serves else ()), *((asks,) if asks else ()))]
    return NetworkPolicy(
        metadata=Metadata(name=name, namespace=settings.namespace),
        spec=NetworkPolicySpec(
            pod_selector=Selector(match_labels={RUN_LABEL: name}),
            policy_types=["Ingress", "Egress"],
            ingress=ingress,
            egress=[Egress(to=[own]), Egress(ports=names), Egress(ports=outside)],
        ),
    )
