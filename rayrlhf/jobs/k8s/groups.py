"""From what roles reserve to groups of pods: which roles share pods, how many pods, how large, under which labels.

    rollout             one worker a pod                     scales
    learner + critic    ranks packed into as few pods as their GPUs allow (`spread`: a rank a pod)    fixed
    reward + reference  one worker of each a pod             scales

Numbers only; knows nothing of manifests.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rayrlhf.errors import ConfigError
from rayrlhf.jobs.k8s.settings import GROUP_LABEL, KubernetesSettings
from rayrlhf.runtime.bundles import RoleBundle

DRIVER_CPUS = 1
"""The job's driver runs on a worker, because the head takes no work; each pod has room for it."""
HOME = {"rollout": "rollout", "learner": "learner", "critic": "learner", "reward": "reward", "reference": "reward"}
GROWTH = 2
"""How far groups that scale may grow if the settings do not say: by `rayrlhf workers`."""
ELASTIC = ("rollout", "reward", "reference", "policy")


@dataclass(frozen=True, slots=True)
class Group:
    """Equal pods. `roles`: how many actors of each role a pod holds."""

    name: str
    pods: int
    max_pods: int
    cpus: int
    gpus: int
    labels: Mapping[str, str]
    roles: Mapping[str, int] = field(default_factory=dict)

    @property
    def threads(self) -> int:
        """Compute threads of one actor, when all in a pod work at the same time."""
        return max(1, (self.cpus - DRIVER_CPUS) // max(1, sum(self.roles.values())))


def groups_of(bundles: Sequence[RoleBundle], settings: KubernetesSettings) -> list[Group]:
    """The groups for a job's roles.

    Raises:
        ConfigError: the roles do not fit into the pods that the settings allow.

    """
    return [_group(name, members, settings) for name, members in _homes(bundles, settings.gpus_per_node).items()]


def labels_of(bundle: RoleBundle, group: Group) -> dict[str, str]:
    """What the role asks of its nodes: the config's labels and the group's own."""
    return {GROUP_LABEL: group.labels[GROUP_LABEL], **bundle.labels}


def _homes(bundles: Sequence[RoleBundle], gpus_per_node: int) -> dict[str, list[RoleBundle]]:
    """Roles by group; a role whose labels contradict those of its group, or for which no GPU is left, has its own."""
    homes: dict[str, list[RoleBundle]] = {}
    for bundle in bundles:
        home = homes.setdefault(HOME[bundle.role], [])
        labels = {key: value for other in home for key, value in other.labels.items()}
        contradicts = any(labels.get(key, value) != value for key, value in bundle.labels.items())
        if contradicts or (home and sum(other.gpus for other in (*home, bundle)) > gpus_per_node):
            homes[bundle.role] = [bundle]
        else:
            home.append(bundle)
    return homes


def _group(name: str, members: list[RoleBundle], settings: KubernetesSettings) -> Group:
    pods, roles = _pods(name, members, settings)
    wanted = settings.pods.of(name)
    cpus = sum(roles[bundle.role] * bundle.cpus for bundle in members) + DRIVER_CPUS
    labels = {GROUP_LABEL: name}
    for bundle in members:
        labels |= bundle.labels
    most = (wanted.max_pods or GROWTH * pods) if name in ELASTIC else pods
    if most < pods:
        raise ConfigError(f"pods.{name}.max_pods = {most}: the config needs {pods} {name} pods")
    return Group(
        name=name,
        pods=pods,
        max_pods=most,
        cpus=max(wanted.cpus, math.ceil(cpus - 1e-9)),
        gpus=_gpus(members, roles),
        labels=labels,
        roles=roles,
    )


def _pods(name: str, members: list[RoleBundle], settings: KubernetesSettings) -> tuple[int, dict[str, int]]:
    """How many pods, and how many actors of each role in one of them."""
    most = max(bundle.count for bundle in members)
    hosts = settings.hosts_per_replica if name == "learner" else 1
    fewest = most if name in ELASTIC or any(bundle.spread for bundle in members) else hosts
    for pods in range(fewest, max(most, hosts) + 1):
        roles = {bundle.role: math.ceil(bundle.count / pods) for bundle in members}
        if pods % hosts == 0 and _gpus(members, roles) <= settings.gpus_per_node:
            return pods, roles
    need = " + ".join(f"{bundle.role}.gpus = {bundle.gpus:g}" for bundle in members)
    raise ConfigError(
        f"no {name} pod of at most gpus_per_node = {settings.gpus_per_node} GPUs holds {need} for {most} pods in "
        f"replicas of hosts_per_replica = {hosts}: lower the roles' GPUs, or change those keys of --settings"
    )


def _gpus(members: list[RoleBundle], roles: Mapping[str, int]) -> int:
    """Whole GPUs of a pod: one if all fit on it, else fractions of one role share what divides them."""
    shares = {bundle.role: bundle.gpus for bundle in members if bundle.gpus}
    if sum(roles[role] * share for role, share in shares.items()) <= 1 + 1e-9:
        return 1 if shares else 0
    gpus = 0
    for role, share in shares.items():
        gpus += math.ceil(roles[role] / int(1 / share + 1e-9)) if share < 1 else math.ceil(roles[role] * share)
    return gpus
