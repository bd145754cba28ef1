"""A training run as a RayJob: the config, the job with a cluster of its own, its network policy.

`backoffLimit` makes a new cluster for each retry, so the job always says `--resume auto` and keeps nothing in pods.
"""

from __future__ import annotations

import re

from rayrlhf.errors import ConfigError
from rayrlhf.jobs.k8s.cluster_spec import network_policy, ray_cluster
from rayrlhf.jobs.k8s.objects import ConfigMap, Manifest, Metadata
from rayrlhf.jobs.k8s.pods import CONFIG_FILE, CONFIG_MOUNT, PodMaker
from rayrlhf.jobs.k8s.ray_objects import (
    DeletionCondition,
    DeletionRule,
    DeletionStrategy,
    RayJob,
    RayJobSpec,
    SubmitterConfig,
)
from rayrlhf.jobs.k8s.run_config import RunConfig
from rayrlhf.jobs.k8s.settings import JobSettings, KubernetesSettings

LONGEST_NAME = 47
"""KubeRay adds to the name of a RayJob or RayService to name its cluster and services."""
SUBMITTER_RETRIES = 2


def training_job(config: RunConfig, settings: KubernetesSettings) -> list[Manifest]:
    """The manifests of an RL, SFT or reward-model run."""
    name = object_name(config.name)
    require_on_volume(config, settings)
    pods = PodMaker(settings, name, config_map=name, is_client=config.reward_port is not None)
    job = RayJob(
        metadata=Metadata(name=name, namespace=settings.namespace, labels=dict(pods.labels)),
        spec=RayJobSpec(
            entrypoint=entrypoint(settings, config.kind, "--resume auto"),
            submitter_config=SubmitterConfig(backoff_limit=SUBMITTER_RETRIES),
            submitter_pod_template=pods.submitter(),
            backoff_limit=settings.job.retries,
            pre_running_deadline_seconds=settings.job.start_deadline_s,
            active_deadline_seconds=settings.job.deadline_s,
            deletion_strategy=deletion(settings.job),
            ray_cluster_spec=ray_cluster(pods, config.groups),
        ),
    )
    return [
        config_map(name, config.toml(), settings),
        job,
        network_policy(name, settings, serves=False, asks=config.reward_port),
    ]


def object_name(run: str) -> str:
    """The run's name as Kubernetes takes it.

    Raises:
        ConfigError: it is too long or begins with a digit.

    """
    name = re.sub(r"[^a-z0-9]+", "-", run.lower()).strip("-")
    if len(name) > LONGEST_NAME or not name[:1].isalpha():
        raise ConfigError(
            f"name = {run!r}: KubeRay takes at most {LONGEST_NAME} characters that begin with a letter: change `name`"
        )
    return name


def entrypoint(settings: KubernetesSettings, command: str, *options: str) -> str:
    """A plain command, because KubeRay splits it into words; it runs where the config's relative paths begin."""
    words = ["env", f"--chdir={settings.storage.mount}", "rayrlhf", command, f"{CONFIG_MOUNT}/{CONFIG_FILE}", *options]
    return " ".join(words)


def require_on_volume(config: RunConfig, settings: KubernetesSettings) -> None:
    """Refuse absolute paths that pods do not have, or that go with them.

    Raises:
        ConfigError: names the first key.

    """
    mount = settings.storage.mount
    for key, where in config.absolute_paths():
        if not f"{where}/".startswith(f"{mount}/"):
            url = ", or a URL such as s3://bucket/runs" if key.endswith("run.directory") else ""
            raise ConfigError(
                f"{key} = {where!r} is not on the volume that the pods share: give a path below storage.mount = "
                f"{mount!r}, a relative one, which begins there{url}"
            )


def config_map(name: str, toml: str, settings: KubernetesSettings) -> ConfigMap:
    """The config as a file for pods."""
    return ConfigMap(metadata=Metadata(name=name, namespace=settings.namespace), data={CONFIG_FILE: toml})


def deletion(settings: JobSettings) -> DeletionStrategy:
    """The cluster goes soon after success, later after failure; the job itself stays a while for the record."""
    succeeded = DeletionCondition(job_status="SUCCEEDED", ttl_seconds=settings.keep_succeeded_s)
    failed = DeletionCondition(job_deployment_status="Failed", ttl_seconds=settings.keep_failed_s)
    rules = [DeletionRule(policy="DeleteCluster", condition=condition) for condition in (succeeded, failed)]
    for condition in (succeeded, failed):
        kept = condition.model_copy(update={"ttl_seconds": settings.keep_job_s})
        rules.append(DeletionRule(policy="DeleteSelf", condition=kept))
    return DeletionStrategy(deletion_rules=rules)
