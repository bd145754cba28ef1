"""Continual training: a standing cluster, where a service runs and a timer starts one turn of the cycle after another.

    RayCluster ◀── RayJob `rayrlhf serve`     (stays; the Service is its stable address)
        ▲
        └────────── RayJob `rayrlhf cycle`    (one a turn) ◀── CronJob, never two at a time

One cluster, because a canary is new replicas beside the running ones, which only their own cluster can start.
"""

from __future__ import annotations

import json

from rayrlhf.jobs.k8s.cluster_spec import network_policy, ray_cluster
from rayrlhf.jobs.k8s.objects import (
    ConfigMap,
    Manifest,
    Metadata,
    PolicyRule,
    Role,
    RoleBinding,
    RoleRef,
    Service,
    ServiceAccount,
    ServicePort,
    ServiceSpec,
    Subject,
)
from rayrlhf.jobs.k8s.pod_objects import (
    BatchJobSpec,
    BatchJobTemplate,
    ConfigMapVolume,
    Container,
    CronJob,
    CronJobSpec,
    Mount,
    PodSpec,
    PodTemplate,
    Volume,
)
from rayrlhf.jobs.k8s.pods import PodMaker, as_user, resources, unprivileged
from rayrlhf.jobs.k8s.ray_objects import (
    DeletionCondition,
    DeletionRule,
    DeletionStrategy,
    RayCluster,
    RayCronJob,
    RayCronJobSpec,
    RayJob,
    RayJobSpec,
    SubmitterConfig,
)
from rayrlhf.jobs.k8s.run_config import RunConfig
from rayrlhf.jobs.k8s.services import policy_group
from rayrlhf.jobs.k8s.settings import MINUTE_S, SERVE_PORT, KubernetesSettings
from rayrlhf.jobs.k8s.training import (
    SUBMITTER_RETRIES,
    config_map,
    entrypoint,
    object_name,
    require_on_volume,
)
from rayrlhf.serving.settings import ServiceSettings

SLOTS = 2
"""A canary, or the successor of another shape, runs beside what serves."""
SERVICE_RETRIES = 100
TURN_FILE = "turn.json"
TURN_MOUNT = "/etc/rayrlhf-turn"
CLUSTER_LABEL = "ray.io/cluster"
TURN_LABEL = "rayrlhf/turn-of"


def continual_training(config: RunConfig, settings: KubernetesSettings) -> list[Manifest]:
    """The manifests of a cycle."""
    name = object_name(f"{config.name}-serve").removesuffix("-serve")  # the longest name that is made of it
    require_on_volume(config, settings)
    directory = config.service_directory
    home = directory if directory.startswith("/") else f"{settings.storage.mount}/{directory}"
    service = settings.policy_service(home)
    pods = PodMaker(settings, name, config_map=name)
    groups = [*config.groups, policy_group(service, settings, SLOTS)]
    manifests: list[Manifest] = [
        config_map(name, config.toml(), settings),
        RayCluster(metadata=_metadata(name, pods), spec=ray_cluster(pods, groups)),
        _serve(name, pods, service),
        _address(name, pods),
        network_policy(name, settings, serves=True),
    ]
    return manifests + _timer(name, pods)


def _metadata(name: str, pods: PodMaker) -> Metadata:
    return Metadata(name=name, namespace=pods.settings.namespace, labels=dict(pods.labels))


def _serve(name: str, pods: PodMaker, service: ServiceSettings) -> RayJob:
    """The service. It has no deadline, and goes on with what served last when it is started again."""
    settings = pods.settings
    spoken = {key: value for key, value in service.model_dump(exclude_defaults=True).items() if key != "node_labels"}
    spoken |= {f"node_labels.{key}": value for key, value in service.node_labels.items()}
    words = [f"{key}={str(value).lower() if isinstance(value, bool) else value}" for key, value in spoken.items()]
    command = ["env", f"--chdir={settings.storage.mount}", "rayrlhf", "serve", settings.cycle.model, "--keep"]
    spec = RayJobSpec(
        entrypoint=" ".join([*command, "--address", "auto", *words]),
        submitter_config=SubmitterConfig(backoff_limit=SUBMITTER_RETRIES),
        submitter_pod_template=pods.submitter(has_cluster=False),
        backoff_limit=SERVICE_RETRIES,
        pre_running_deadline_seconds=settings.job.start_deadline_s,
        cluster_selector={CLUSTER_LABEL: name},
    )
    metadata = _metadata(f"{name}-serve", pods)
    labels = {**(metadata.labels or {}), "app.kubernetes.io/component": "service"}
    return RayJob(metadata=metadata.model_copy(update={"labels": labels}), spec=spec)


def _address(name: str, pods: PodMaker) -> Service:
    """Serve's proxy in the head, which is there as long as the cluster is."""
    selector = {CLUSTER_LABEL: name, "ray.io/node-type": "head"}
    spec = ServiceSpec(selector=selector, ports=[ServicePort(name="http", port=SERVE_PORT)])
    return Service(metadata=_metadata(f"{name}-http", pods), spec=spec)


def _turn(name: str, pods: PodMaker) -> RayJob:
    """One turn. It is not retried: the next one goes on where it was."""
    settings = pods.settings
    kept = [
        DeletionCondition(job_status="SUCCEEDED", ttl_seconds=settings.job.keep_job_s),
        DeletionCondition(job_deployment_status="Failed", ttl_seconds=settings.job.keep_job_s),
    ]
    spec = RayJobSpec(
        entrypoint=entrypoint(settings, "cycle"),
        submitter_config=SubmitterConfig(backoff_limit=SUBMITTER_RETRIES),
        submitter_pod_template=pods.submitter(has_cluster=False),
        backoff_limit=0,
        pre_running_deadline_seconds=settings.job.start_deadline_s,
        active_deadline_seconds=settings.cycle.deadline_s,
        deletion_strategy=DeletionStrategy(
            deletion_rules=[DeletionRule(policy="DeleteSelf", condition=condition) for condition in kept]
        ),
        cluster_selector={CLUSTER_LABEL: name},
    )
    labels = {**pods.labels, TURN_LABEL: name}
    return RayJob(metadata=Metadata(generate_name=f"{name[:36]}-turn-", labels=labels), spec=spec)


def _timer(name: str, pods: PodMaker) -> list[Manifest]:
    """What starts turns."""
    cycle, turn, own_name = pods.settings.cycle, _turn(name, pods), f"{name[:31]}-turn"
    metadata = _metadata(own_name, pods)
    if cycle.timer == "RayCronJob":
        spec = RayCronJobSpec(schedule=cycle.schedule, time_zone=cycle.time_zone, job_template=turn.spec)
        return [RayCronJob(metadata=metadata, spec=spec)]
    rule = PolicyRule(api_groups=["ray.io"], resources=["rayjobs"], verbs=["create", "get", "list"])
    account = Subject(name=own_name, namespace=pods.settings.namespace)
    return [
        ConfigMap(metadata=metadata, data={TURN_FILE: json.dumps(turn.manifest(), indent=1) + "\n"}),
        ServiceAccount(metadata=metadata),
        Role(metadata=metadata, rules=[rule]),
        RoleBinding(metadata=metadata, role_ref=RoleRef(name=own_name), subjects=[account]),
        _cron_job(own_name, pods),
    ]


def _cron_job(name: str, pods: PodMaker) -> CronJob:
    """Its pod stays as long as the turn does: else `Forbid` would forbid nothing."""
    settings, cycle = pods.settings, pods.settings.cycle
    template = BatchJobTemplate(
        spec=BatchJobSpec(
            backoff_limit=1,
            active_deadline_seconds=cycle.deadline_s + settings.job.start_deadline_s,
            ttl_seconds_after_finished=settings.job.keep_job_s,
            template=PodTemplate(metadata=Metadata(labels=dict(pods.labels)), spec=_turn_pod(name, settings)),
        )
    )
    return CronJob(
        metadata=_metadata(name, pods),
        spec=CronJobSpec(
            schedule=cycle.schedule,
            time_zone=cycle.time_zone,
            concurrency_policy="Forbid",
            starting_deadline_seconds=10 * MINUTE_S,
            successful_jobs_history_limit=3,
            failed_jobs_history_limit=3,
            job_template=template,
        ),
    )


def _turn_pod(name: str, settings: KubernetesSettings) -> PodSpec:
    container = Container(
        name="turn",
        image=settings.image,
        command=["rayrlhf", "k8s", "turn", f"{TURN_MOUNT}/{TURN_FILE}"],
        resources=resources(1, "1Gi", request_cpus="100m"),
        security_context=unprivileged(),
        volume_mounts=[Mount(name="turn", mount_path=TURN_MOUNT, read_only=True)],
    )
    return PodSpec(
        service_account_name=name,
        automount_service_account_token=True,
        restart_policy="Never",
        security_context=as_user(settings.user_id),
        containers=[container],
        volumes=[Volume(name="turn", config_map=ConfigMapVolume(name=name))],
    )
