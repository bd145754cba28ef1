"""Pod templates: the head's, a worker group's, the submitter's. One place for what every pod may and may not do.

Knows sizes and settings; nothing of what runs inside but Ray's ports.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rayrlhf.jobs.k8s.groups import Group
from rayrlhf.jobs.k8s.objects import Labels, Metadata
from rayrlhf.jobs.k8s.pod_objects import (
    Capabilities,
    ClaimVolume,
    ConfigMapVolume,
    Container,
    EmptyDir,
    EnvFrom,
    EnvSource,
    EnvVar,
    Mount,
    PodSecurityContext,
    PodSpec,
    PodTemplate,
    Port,
    Resources,
    SeccompProfile,
    SecretKey,
    SecretRef,
    SecurityContext,
    Toleration,
    Volume,
)
from rayrlhf.jobs.k8s.settings import KubernetesSettings, PodSettings

CONFIG_MOUNT = "/etc/rayrlhf"
CONFIG_FILE = "job.toml"
RUN_LABEL = "rayrlhf/run"
"""On every pod of a run: its network policy selects by it."""
CLIENT_LABEL = "rayrlhf/client"
"""On pods that may ask a service, with the value `true`: its network policy lets them in."""
HEAD_PORTS = (Port(name="gcs", container_port=6379), Port(name="dashboard", container_port=8265))
GRACE_S = 120
"""Longer than `recovery.grace_s`, so that a pod that is asked to go can save first."""


@dataclass(frozen=True, slots=True)
class PodMaker:
    """Pods of one run."""

    settings: KubernetesSettings
    run: str
    config_map: str | None = None
    is_client: bool = False

    @property
    def labels(self) -> Labels:
        """Of every pod."""
        found = {"app.kubernetes.io/part-of": "rayrlhf", RUN_LABEL: self.run}
        return found | {CLIENT_LABEL: "true"} if self.is_client else found

    def head(self) -> PodTemplate:
        """The head, whose service account token the autoscaler needs."""
        size = self.settings.pods.head
        container = self._ray_container("ray-head", size, size.cpus, ports=HEAD_PORTS)
        return self._template(container, size, automount=True)

    def worker(self, group: Group) -> PodTemplate:
        """A worker; it has no business with the API server."""
        size = self.settings.pods.of(group.name)
        container = self._ray_container("ray-worker", size, group.cpus, group.gpus)
        return self._template(container, size, automount=False, tolerates_gpus=group.gpus > 0)

    def submitter(self, *, has_cluster: bool = True) -> PodTemplate:
        """Sends the job to the cluster and follows its log; KubeRay fills in the command.

        It fills in the token too, at least where the job `has_cluster` of its own.
        """
        container = Container(
            name="ray-job-submitter",
            image=self.settings.image,
            env=None if has_cluster else self._token(),
            resources=resources(1, "1Gi", request_cpus="200m"),
            security_context=unprivileged(),
        )
        spec = PodSpec(
            automount_service_account_token=False,
            restart_policy="Never",
            security_context=self._as_nobody(),
            containers=[container],
        )
        return PodTemplate(metadata=Metadata(labels=self.labels), spec=spec)

    def _ray_container(
        self, name: str, size: PodSettings, cpus: int, gpus: int = 0, ports: Sequence[Port] | None = None
    ) -> Container:
        mounts = [Mount(name="runs", mount_path=self.settings.storage.mount), Mount(name="shm", mount_path="/dev/shm")]
        if self.config_map is not None:
            mounts.append(Mount(name="config", mount_path=CONFIG_MOUNT, read_only=True))
        extra = {self.settings.gpu_resource: str(gpus)} if gpus else {}
        home = self.settings.storage.mount
        return Container(
            name=name,
            image=self.settings.image,
            working_dir=home,
            ports=ports,
            env=[EnvVar(name="HF_HOME", value=f"{home}/cache/huggingface")],
            env_from=[EnvFrom(secret_ref=SecretRef(name=self.settings.environment_secret, optional=True))],
            resources=resources(cpus, f"{size.memory_gib}Gi", extra=extra),
            security_context=unprivileged(),
            volume_mounts=mounts,
        )

    def _template(
        self, container: Container, size: PodSettings, *, automount: bool, tolerates_gpus: bool = False
    ) -> PodTemplate:
        storage = self.settings.storage
        volumes = [
            Volume(name="runs", persistent_volume_claim=ClaimVolume(claim_name=storage.claim)),
            Volume(name="shm", empty_dir=EmptyDir(medium="Memory", size_limit=f"{size.shm_gib}Gi")),
        ]
        if self.config_map is not None:
            volumes.append(Volume(name="config", config_map=ConfigMapVolume(name=self.config_map)))
        tolerations = [Toleration(key=self.settings.gpu_resource, effect="NoSchedule")] if tolerates_gpus else None
        spec = PodSpec(
            automount_service_account_token=automount,
            termination_grace_period_seconds=GRACE_S,
            security_context=self._as_nobody(),
            tolerations=tolerations,
            containers=[container],
            volumes=volumes,
        )
        return PodTemplate(metadata=Metadata(labels=self.labels), spec=spec)

    def _token(self) -> list[EnvVar]:
        key = SecretKey(name=self.settings.token_secret, key="auth_token")
        source = EnvSource(secret_key_ref=key)
        return [EnvVar(name="RAY_AUTH_MODE", value="token"), EnvVar(name="RAY_AUTH_TOKEN", value_from=source)]

    def _as_nobody(self) -> PodSecurityContext:
        return as_user(self.settings.user_id)


def as_user(user_id: int) -> PodSecurityContext:
    """Not root; files on volumes are the user's."""
    return PodSecurityContext(
        run_as_non_root=True,
        run_as_user=user_id,
        run_as_group=user_id,
        fs_group=user_id,
        fs_group_change_policy="OnRootMismatch",
        seccomp_profile=SeccompProfile(type="RuntimeDefault"),
    )


def unprivileged() -> SecurityContext:
    """No capability, and none to be had."""
    return SecurityContext(allow_privilege_escalation=False, capabilities=Capabilities(drop=["ALL"]))


def resources(cpus: int, memory: str, *, request_cpus: str | None = None, extra: Labels | None = None) -> Resources:
    """Requests equal limits, so that a node is never promised twice; KubeRay tells Ray the limits."""
    limits = {"cpu": str(cpus), "memory": memory} | dict(extra or {})
    return Resources(requests=limits | ({"cpu": request_cpus} if request_cpus else {}), limits=limits)
