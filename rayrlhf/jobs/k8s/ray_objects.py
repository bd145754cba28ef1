"""KubeRay's objects as far as they are written here: clusters, jobs, services and timers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from rayrlhf.jobs.k8s.objects import Labels, Manifest, Piece
from rayrlhf.jobs.k8s.pod_objects import PodTemplate, Resources, SecurityContext


class AuthOptions(Piece):
    """Token authentication; the secret's key is `auth_token`."""

    mode: Literal["token"] = "token"
    secret_name: str


class AutoscalerOptions(Piece):
    """The autoscaler's container in the head pod."""

    version: Literal["v2"] = "v2"
    idle_timeout_seconds: int
    upscaling_mode: Literal["Default", "Aggressive", "Conservative"] = "Default"
    resources: Resources
    security_context: SecurityContext


class HeadGroup(Piece):
    """The head."""

    service_type: str = "ClusterIP"
    ray_start_params: Mapping[str, str]
    template: PodTemplate


class WorkerGroup(Piece):
    """Pods of one kind. `labels` are Ray's node labels."""

    group_name: str
    replicas: int
    min_replicas: int
    max_replicas: int
    num_of_hosts: int = 1
    labels: Labels
    ray_start_params: Mapping[str, str]
    template: PodTemplate


class RayClusterSpec(Piece):
    """A Ray cluster."""

    ray_version: str
    auth_options: AuthOptions
    enable_in_tree_autoscaling: bool
    autoscaler_options: AutoscalerOptions
    head_group_spec: HeadGroup
    worker_group_specs: Sequence[WorkerGroup]


class RayCluster(Manifest):
    """A cluster that stays."""

    api_version: str = "ray.io/v1"
    kind: str = "RayCluster"
    spec: RayClusterSpec


class DeletionCondition(Piece):
    """When a rule applies."""

    job_status: Literal["SUCCEEDED", "FAILED"] | None = None
    job_deployment_status: Literal["Failed"] | None = None
    ttl_seconds: int


class DeletionRule(Piece):
    """What is deleted, and when."""

    policy: Literal["DeleteCluster", "DeleteWorkers", "DeleteSelf", "DeleteNone"]
    condition: DeletionCondition


class DeletionStrategy(Piece):
    """What becomes of the cluster and the job after its end."""

    deletion_rules: Sequence[DeletionRule]


class SubmitterConfig(Piece):
    """Retries of the pod that submits; it says nothing of the job's."""

    backoff_limit: int


class RayJobSpec(Piece):
    """A job, with a cluster of its own or on one that is there."""

    entrypoint: str
    entrypoint_num_cpus: int = 1
    submission_mode: Literal["K8sJobMode"] = "K8sJobMode"
    submitter_config: SubmitterConfig
    submitter_pod_template: PodTemplate
    backoff_limit: int
    pre_running_deadline_seconds: int
    active_deadline_seconds: int | None = None
    deletion_strategy: DeletionStrategy | None = None
    cluster_selector: Labels | None = None
    ray_cluster_spec: RayClusterSpec | None = None


class RayJob(Manifest):
    """A job."""

    api_version: str = "ray.io/v1"
    kind: str = "RayJob"
    spec: RayJobSpec


class RayCronJobSpec(Piece):
    """A timer of KubeRay's own. It has no concurrency policy."""

    schedule: str
    time_zone: str
    job_template: RayJobSpec


class RayCronJob(Manifest):
    """A timer."""

    api_version: str = "ray.io/v1"
    kind: str = "RayCronJob"
    spec: RayCronJobSpec


class UpgradeStrategy(Piece):
    """How a service moves to another cluster."""

    type: Literal["NewCluster"] = "NewCluster"


class RayServiceSpec(Piece):
    """Serve applications on a cluster of their own."""

    upgrade_strategy: UpgradeStrategy = UpgradeStrategy()
    exclude_head_pod_from_serve_svc: bool = True
    serve_config_v2: str
    ray_cluster_config: RayClusterSpec


class RayService(Manifest):
    """A service."""

    api_version: str = "ray.io/v1"
    kind: str = "RayService"
    spec: RayServiceSpec
