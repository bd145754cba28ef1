"""Pods as they are written here, and what makes them on a timer: containers, volumes, what they may not do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from rayrlhf.jobs.k8s.objects import Manifest, Metadata, Piece


class SecretKey(Piece):
    """One key of a secret."""

    name: str
    key: str
    optional: bool | None = None


class EnvSource(Piece):
    """Where a variable's value comes from."""

    secret_key_ref: SecretKey


class EnvVar(Piece):
    """An environment variable."""

    name: str
    value: str | None = None
    value_from: EnvSource | None = None


class SecretRef(Piece):
    """A secret by name."""

    name: str
    optional: bool | None = None


class EnvFrom(Piece):
    """All keys of a secret as variables."""

    secret_ref: SecretRef


class Mount(Piece):
    """A volume in a container."""

    name: str
    mount_path: str
    read_only: bool | None = None


class ConfigMapVolume(Piece):
    """Files from a ConfigMap."""

    name: str


class ClaimVolume(Piece):
    """A PersistentVolumeClaim."""

    claim_name: str


class EmptyDir(Piece):
    """Scratch space of a pod; in memory where `medium` says so."""

    medium: Literal["Memory"] | None = None
    size_limit: str | None = None


class Volume(Piece):
    """A volume of a pod, of one of the kinds."""

    name: str
    config_map: ConfigMapVolume | None = None
    persistent_volume_claim: ClaimVolume | None = None
    empty_dir: EmptyDir | None = None


class Resources(Piece):
    """Requests and limits of a container."""

    requests: Mapping[str, str]
    limits: Mapping[str, str]


class Capabilities(Piece):
    """Linux capabilities."""

    drop: Sequence[str]


class SecurityContext(Piece):
    """What a container may not do."""

    allow_privilege_escalation: bool
    capabilities: Capabilities


class SeccompProfile(Piece):
    """Which system calls are filtered."""

    type: str


class PodSecurityContext(Piece):
    """As whom all containers of a pod run."""

    run_as_non_root: bool
    run_as_user: int
    run_as_group: int
    fs_group: int
    fs_group_change_policy: str
    seccomp_profile: SeccompProfile


class Port(Piece):
    """A port of a container."""

    name: str
    container_port: int


class Container(Piece):
    """A container."""

    name: str
    image: str
    image_pull_policy: str | None = None
    command: Sequence[str] | None = None
    working_dir: str | None = None
    ports: Sequence[Port] | None = None
    env: Sequence[EnvVar] | None = None
    env_from: Sequence[EnvFrom] | None = None
    resources: Resources
    security_context: SecurityContext
    volume_mounts: Sequence[Mount] | None = None


class Toleration(Piece):
    """Which tainted nodes will do."""

    key: str
    operator: str = "Exists"
    effect: str | None = None


class PodSpec(Piece):
    """A pod."""

    service_account_name: str | None = None
    automount_service_account_token: bool | None = None
    restart_policy: str | None = None
    termination_grace_period_seconds: int | None = None
    security_context: PodSecurityContext
    tolerations: Sequence[Toleration] | None = None
    containers: Sequence[Container]
    volumes: Sequence[Volume] | None = None


class PodTemplate(Piece):
    """What pods are made from."""

    metadata: Metadata | None = None
    spec: PodSpec


class BatchJobSpec(Piece):
    """A Kubernetes job."""

    backoff_limit: int
    active_deadline_seconds: int
    ttl_seconds_after_finished: int
    template: PodTemplate


class BatchJobTemplate(Piece):
    """What a CronJob makes."""

    spec: BatchJobSpec


class CronJobSpec(Piece):
    """When, and whether two may overlap."""

    schedule: str
    time_zone: str
    concurrency_policy: Literal["Allow", "Forbid", "Replace"]
    starting_deadline_seconds: int
    successful_jobs_history_limit: int
    failed_jobs_history_limit: int
    job_template: BatchJobTemplate


class CronJob(Manifest):
    """A timer."""

    api_version: str = "batch/v1"
    kind: str = "CronJob"
    spec: CronJobSpec
