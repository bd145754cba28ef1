"""`rayrlhf k8s render`: from the config that trains to the manifests that run it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rayrlhf.config.kinds import job_kind
from rayrlhf.config.load import read_values
from rayrlhf.errors import ConfigError
from rayrlhf.jobs.k8s.continual import continual_training
from rayrlhf.jobs.k8s.objects import ClaimResources, ClaimSpec, Manifest, Metadata, Namespace, PersistentVolumeClaim
from rayrlhf.jobs.k8s.run_config import RunConfig
from rayrlhf.jobs.k8s.services import policy_service, reward_service
from rayrlhf.jobs.k8s.settings import KubernetesSettings
from rayrlhf.jobs.k8s.training import training_job
from rayrlhf.jobs.k8s.yaml_text import yaml_text

SERVICES = {"policy-service": policy_service, "reward-service": reward_service}
KINDS = ("rl", "sft", "reward", "cycle", *SERVICES)
KUSTOMIZATION = "kustomization.yaml"


def render(
    path: str, overrides: Sequence[str], settings: KubernetesSettings, kind: str | None = None
) -> list[Manifest]:
    """The manifests for a config; `kind` is found out where it can be.

    Raises:
        ConfigError: the config is wrong, or cannot run on Kubernetes as it is.

    """
    found = job_kind(read_values(path), "--kind")
    if kind in SERVICES:
        if found == "cycle":
            raise ConfigError(f"{path}: a cycle has a service of its own: leave --kind {kind} out")
        return SERVICES[kind](RunConfig(found, path, overrides, settings), settings)
    config = RunConfig(kind or found, path, overrides, settings)
    return continual_training(config, settings) if config.kind == "cycle" else training_job(config, settings)


def render_volume(settings: KubernetesSettings) -> list[Manifest]:
    """What all runs share, and what must outlive them: the namespace and the volume."""
    storage = settings.storage
    strict = {"pod-security.kubernetes.io/enforce": "restricted"}
    return [
        Namespace(metadata=Metadata(name=settings.namespace, labels=strict)),
        PersistentVolumeClaim(
            metadata=Metadata(name=storage.claim, namespace=settings.namespace),
            spec=ClaimSpec(
                access_modes=["ReadWriteMany"],
                storage_class_name=storage.storage_class,
                resources=ClaimResources(requests={"storage": f"{storage.size_gib}Gi"}),
            ),
        ),
    ]


def as_yaml(manifests: Sequence[Manifest]) -> str:
    """All of them as one stream."""
    return "---\n".join(yaml_text(manifest.manifest()) for manifest in manifests)


def write_folder(manifests: Sequence[Manifest], folder: Path) -> list[Path]:
    """A file for each, and a kustomization over them; what an earlier call wrote there is replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    files: dict[str, str] = {}
    for manifest in manifests:
        stem = manifest.kind.lower()
        others = [other for other in manifests if other.kind == manifest.kind]
        name = f"{stem}.yaml" if len(others) == 1 else f"{stem}-{others.index(manifest) + 1}.yaml"
        files[name] = yaml_text(manifest.manifest())
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": list(files),
    }
    files[KUSTOMIZATION] = yaml_text(kustomization)
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    return [folder / name for name in files]
