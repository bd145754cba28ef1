"""RayServices: the policy with OpenAI's API, and a reward model. Serve's config is made by the code that reads it.

A change of `serveConfigV2` alone is applied to the running cluster; any other change makes a new cluster first.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from rayrlhf.errors import ConfigError
from rayrlhf.jobs.k8s.cluster_spec import network_policy, ray_cluster
from rayrlhf.jobs.k8s.groups import DRIVER_CPUS, Group
from rayrlhf.jobs.k8s.objects import Manifest, Metadata
from rayrlhf.jobs.k8s.pods import PodMaker
from rayrlhf.jobs.k8s.ray_objects import RayService, RayServiceSpec
from rayrlhf.jobs.k8s.run_config import RunConfig
from rayrlhf.jobs.k8s.settings import SERVE_PORT, KubernetesSettings
from rayrlhf.jobs.k8s.training import object_name, require_on_volume
from rayrlhf.jobs.k8s.yaml_text import yaml_text
from rayrlhf.serving.settings import ListeningSettings, ServiceSettings

BUILDERS = "rayrlhf.serving.declared"


def policy_service(config: RunConfig, settings: KubernetesSettings) -> list[Manifest]:
    """The service of the policy that a run exports."""
    name = object_name(f"{config.name}-policy")
    service = settings.policy_service(f"{settings.storage.mount}/services/{name}")
    arguments = {"model": _model(config, settings), "settings": service.model_dump(mode="json")}
    applications: list[dict[str, Any]] = [
        {"name": "policy-a", "import_path": f"{BUILDERS}:policy", "route_prefix": None, "args": arguments},
        {"name": "ingress", "import_path": f"{BUILDERS}:ingress", "route_prefix": "/", "args": arguments},
    ]
    return _service(name, applications, policy_group(service, settings), settings)


def reward_service(config: RunConfig, settings: KubernetesSettings) -> list[Manifest]:
    """The service of the reward model that a run exports."""
    name = object_name(f"{config.name}-service")
    service = settings.reward_model_service(f"{settings.storage.mount}/services/{name}")
    arguments = {"model": _model(config, settings), "settings": service.model_dump(mode="json")}
    applications = [
        {"name": "reward", "import_path": f"{BUILDERS}:reward", "route_prefix": "/", "args": arguments},
    ]
    return _service(name, applications, _group("reward", service, (service.cpus, service.gpus), settings), settings)


def policy_group(service: ServiceSettings, settings: KubernetesSettings, slots: int = 1) -> Group:
    """A pod for each replica of the policy; `slots`: how many models may run beside each other at most."""
    group = _group("policy", service, (service.cpus, service.gpus * service.tensor_parallel), settings)
    return replace(group, max_pods=max(settings.pods.policy.max_pods or 0, group.max_pods * slots))


def _group(name: str, service: ListeningSettings, reserved: tuple[float, float], settings: KubernetesSettings) -> Group:
    cpus, gpus = reserved
    most = max(service.max_replicas or 0, service.replicas)
    whole_cpus = max(settings.pods.of(name).cpus, math.ceil(cpus) + DRIVER_CPUS)
    return Group(name, service.replicas, most, whole_cpus, math.ceil(gpus), dict(service.node_labels))


def _model(config: RunConfig, settings: KubernetesSettings) -> str:
    """Where the run exports its model, on the volume."""
    require_on_volume(config, settings)
    where = config.run_directory
    if "://" in where:
        raise ConfigError(
            f"run.directory = {where!r}: a service reads its model from the volume, not from a URL: copy the model "
            f"there, and give the directory above it, as in run.directory={settings.storage.mount}/runs"
        )
    root = where if where.startswith("/") else f"{settings.storage.mount}/{where}"
    return f"{root}/{config.name}/model"


def _service(
    name: str, applications: list[dict[str, Any]], group: Group, settings: KubernetesSettings
) -> list[Manifest]:
    pods = PodMaker(settings, name)
    config = {
        "http_options": {"host": "0.0.0.0", "port": SERVE_PORT},
        "applications": applications,
    }
    service = RayService(
        metadata=Metadata(name=name, namespace=settings.namespace, labels=dict(pods.labels)),
        spec=RayServiceSpec(
            serve_config_v2=yaml_text(config),
            ray_cluster_config=ray_cluster(pods, [group]),
        ),
    )
    return [service, network_policy(name, settings, serves=True)]
