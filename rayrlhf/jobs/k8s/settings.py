"""What is about a Kubernetes cluster and not about a run: the keys of `--settings`, each with its default."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from rayrlhf import __version__
from rayrlhf.config.base import NonNegativeInt, PositiveInt, Section
from rayrlhf.config.load import load_job, settings_of, validate_job
from rayrlhf.serving.reward_settings import RewardServiceSettings
from rayrlhf.serving.settings import ServiceSettings

MINUTE_S, HOUR_S, DAY_S = 60, 3600, 86_400
Name = Annotated[str, Field(pattern=r"^[a-z]([-a-z0-9]*[a-z0-9])?$", max_length=63)]
GROUP_LABEL = "rayrlhf/group"
"""Ray's node label that each group of pods has, and that each of its roles asks for."""
SERVE_PORT = 8000
PodPath = Annotated[str, Field(pattern=r"^/[^\s]*[^\s/]$")]


class PodSettings(Section):
    """The pods of one group."""

    cpus: PositiveInt = Field(4, description="CPUs of a pod; more where its roles reserve more")
    memory_gib: PositiveInt = Field(32, description="memory of a pod, GiB; /dev/shm is part of it")
    shm_gib: PositiveInt = Field(10, description="size of /dev/shm, GiB: Ray's object store, about 30 % of the memory")
    max_pods: PositiveInt | None = Field(None, description="of rollout, reward, policy: grow to as many; unset: twice")


class PodsSettings(Section):
    """All groups."""

    head: PodSettings = PodSettings(cpus=2, memory_gib=8, shm_gib=3)
    rollout: PodSettings = PodSettings()
    learner: PodSettings = PodSettings(cpus=8, memory_gib=96, shm_gib=30)
    reward: PodSettings = PodSettings()
    policy: PodSettings = PodSettings()

    @model_validator(mode="after")
    def _fixed_groups(self) -> Self:
        for group in ("head", "learner"):
            if getattr(self, group).max_pods is not None:
                raise ValueError(f"pods.{group}.max_pods: the {group} does not scale; remove the key")
        return self

    def of(self, group: str) -> PodSettings:
        """Of a group; one that only one role has is like the learner's or the reward's."""
        names = {"critic": "learner", "reference": "reward"}
        found: PodSettings = getattr(self, names.get(group, group))
        return found


class StorageSettings(Section):
    """The volume that all pods share. Runs, models and data are on it; relative paths of a config begin there."""

    claim: Name = Field("rayrlhf-runs", description="the PersistentVolumeClaim")
    mount: PodPath = Field("/rayrlhf", description="where pods have it")
    storage_class: Name | None = Field(None, description="one that can be written from many nodes; unset: the default")
    size_gib: PositiveInt = Field(500, description="GiB")


class JobSettings(Section):
    """Deadlines and retries of jobs."""

    retries: NonNegativeInt = Field(3, description="new clusters after a failure; each goes on from the newest save")
    start_deadline_s: PositiveInt = Field(HOUR_S, description="for all pods to be there")
    deadline_s: PositiveInt = Field(7 * DAY_S, description="of the whole job, retries included")
    keep_succeeded_s: NonNegativeInt = Field(5 * MINUTE_S, description="the cluster stays this long after success")
    keep_failed_s: NonNegativeInt = Field(HOUR_S, description="the cluster stays this long after failure, to look at")
    keep_job_s: PositiveInt = Field(7 * DAY_S, description="the RayJob itself stays this long")


class CycleSettings(Section):
    """The service that a cycle improves, and when the next turn is looked for."""

    model: str = Field("runs/sft/model", description="served until the first promotion: on the volume, or a hub id")
    schedule: str = Field("0 2 * * *", description="cron: minute, hour, day, month, weekday")
    timer: Literal["CronJob", "RayCronJob"] = Field(
        "CronJob", description="RayCronJob is KubeRay's own and alpha; it does not keep two turns from overlapping"
    )
    time_zone: str = Field("Etc/UTC", description="of the schedule")
    deadline_s: PositiveInt = Field(2 * DAY_S, description="of one turn, the canary's wait included")


class KubernetesSettings(Section):
    """Everything that `rayrlhf k8s render` needs besides the config."""

    image: str = Field(f"rayrlhf:{__version__}", description="one image for all roles; --image overrides it")
    namespace: Name = Field("rayrlhf", description="of everything")
    operator_namespace: Name = Field("kuberay-operator", description="where the KubeRay operator runs")
    token_secret: Name = Field("rayrlhf-ray-token", description="secret with Ray's token under `auth_token`")
    environment_secret: Name = Field(
        "rayrlhf-environment", description="secret whose keys are variables of all pods: HF_TOKEN, PGPASSWORD, AWS_…"
    )
    user_id: PositiveInt = Field(1000, description="user and group of all containers")
    gpu_resource: str = Field("nvidia.com/gpu", description="what Kubernetes calls a GPU")
    gpus_per_node: PositiveInt = Field(8, description="a learner pod has at most as many")
    hosts_per_replica: PositiveInt = Field(1, description="learner: pods that come and go together (numOfHosts)")
    idle_timeout_s: PositiveInt = Field(10 * MINUTE_S, description="an idle pod above the fewest is taken away")
    storage: StorageSettings = StorageSettings()
    pods: PodsSettings = PodsSettings()
    job: JobSettings = JobSettings()
    cycle: CycleSettings = CycleSettings()
    service: Mapping[str, Any] = Field({}, description="keys of `rayrlhf serve`, for the policy")
    reward_service: Mapping[str, Any] = Field({}, description="keys of `rayrlhf serve --role reward`")

    def policy_service(self, home: str) -> ServiceSettings:
        """How the policy is served: files in `home`, the store in PostgreSQL, unless said otherwise."""
        fixed = {
            "host": "0.0.0.0",
            "directory": home,
            "port": SERVE_PORT,
            "node_labels": {GROUP_LABEL: "policy"},
            "store": "postgresql+psycopg://rayrlhf@postgres/rayrlhf",
            "keys": f"{home}/signing-keys.json",
            "tokens": f"{home}/tokens.json",
        }
        return validate_job(ServiceSettings, fixed | dict(self.service), "service")

    def reward_model_service(self, home: str) -> RewardServiceSettings:
        """How a reward model is served."""
        fixed: dict[str, Any] = {"host": "0.0.0.0", "port": SERVE_PORT, "node_labels": {GROUP_LABEL: "reward"}}
        fixed["tokens"] = f"{home}/tokens.json"
        return validate_job(RewardServiceSettings, fixed | dict(self.reward_service), "reward_service")


def load_settings(path: str | None, changes: Sequence[str], image: str | None) -> KubernetesSettings:
    """The settings of a TOML file, or the defaults, with `key=value` changes; `image` is `--image`.

    Raises:
        ConfigError: a key is unknown or a value wrong.

    """
    kind = KubernetesSettings
    found = settings_of(kind, changes) if path is None else load_job(kind, path, changes)
    return found if image is None else found.model_copy(update={"image": image})
