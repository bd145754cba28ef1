"""Reaching a Ray cluster, checking that the roles fit, and placing them.

Knows bundles of CPUs and GPUs and nothing of what runs in them.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup, placement_group, placement_group_table, remove_placement_group

from rayrlhf.errors import PlacementError
from rayrlhf.runtime.bundles import RoleBundle
from rayrlhf.runtime.environment import driver_cpus, own_ray_address, set_variables
from rayrlhf.runtime.interruption import raise_if_due
from rayrlhf.runtime.security import secure_join, secure_start


def connect(address: str | None = None, *, metrics_port: int | None = None) -> None:
    """Join the cluster at `address`, or that of the Ray job that this is, or start one on this machine.

    One that is started here shows its metrics at `metrics_port`, or at a free one. Another run's cluster on this
    machine is none of ours: Ray would join it, and lose it when that run ends. What the actors print goes to Ray's log
    files.

    Raises:
        PlacementError: there is no cluster at the address, it is open to anybody or refuses our token (`security`), or
            it has metrics ports of its own.

    """
    if ray.is_initialized():
        return
    where = address or own_ray_address()
    if metrics_port is not None and where != "local":
        raise PlacementError(
            f"metrics_port = {metrics_port}: the nodes of {where} have ports of their own; remove the key"
        )
    set_variables({"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1", "RAY_TRAIN_V2_ENABLED": "1"})
    if where == "local":
        secure_start()
    else:
        secure_join(where)
    quiet: dict[str, Any] = {"log_to_driver": False, "include_dashboard": False, "logging_level": "ERROR"}
    try:
        ray.init(address=where, _metrics_export_port=metrics_port, **quiet)
    except (ConnectionError, ValueError) as error:
        raise PlacementError(f"no Ray cluster can be reached at {where}: {error}") from None


def disconnect() -> None:
    """Leave the cluster; one that this process started ends."""
    if ray.is_initialized():
        ray.shutdown()


def address() -> str:
    """Where other processes join the cluster that this one is on."""
    return str(ray.get_runtime_context().gcs_address)


def metrics_urls() -> list[str]:
    """Where Prometheus finds the metrics of each node that is alive."""
    nodes = [node for node in ray.nodes() if node["Alive"]]
    return [f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics" for node in nodes]


def log_folder() -> Path:
    """Where this node's actors and their engines write what they have to say."""
    context = ray.get_runtime_context()
    return Path(context.get_temp_dir()) / context.get_session_name() / "logs"


def check_feasible(bundles: Sequence[RoleBundle], *, autoscaling: bool = False) -> None:
    """Put every bundle on some node, largest first, or say what is missing; needs no time and starts nothing.

    With `autoscaling` it is only said: reservations that wait are what makes the cluster grow.

    Raises:
        PlacementError: "need …, have …", and the keys to change.

    """
    try:
        check_room(bundles, [NodeRoom.of(node) for node in ray.nodes() if node["Alive"]])
    except PlacementError as error:
        if not autoscaling:
            raise
        print(f"waiting for nodes: {error}")


def check_room(bundles: Sequence[RoleBundle], nodes: Sequence[NodeRoom]) -> None:
    """`check_feasible` on nodes that are given; needs no cluster."""
    free = [replace(node) for node in nodes]
    have = f"{sum(n.cpus for n in free):g} CPUs and {sum(n.gpus for n in free):g} GPUs on {len(free)} node(s)"
    have += f" beside the {driver_cpus():g} CPUs of the job's driver" if driver_cpus() else ""
    wanted = [b for b in bundles for _ in range(b.count)]
    need = f"{sum(b.cpus for b in wanted):g} CPUs and {sum(b.gpus for b in wanted):g} GPUs"
    for bundle in sorted(wanted, key=lambda b: (-b.gpus, -b.cpus)):
        node = next((n for n in free if n.takes(bundle)), None)
        if node is None:
            keys = f"{bundle.role}.cpus, {bundle.role}.gpus or its count"
            keys += f", or change {bundle.role}.node_labels" if bundle.labels else ""
            raise PlacementError(
                f"need {need} for all roles, have {have}; no node{bundle.where} has {bundle.cpus:g} CPUs and "
                f"{bundle.gpus:g} GPUs left for a {bundle.role} actor: lower {keys}"
            )
        node.cpus -= bundle.cpus
        node.gpus -= bundle.gpus


@dataclass(slots=True)
class NodeRoom:
    """What is left of a node."""

    cpus: float
    gpus: float
    labels: dict[str, str]

    @classmethod
    def of(cls, node: dict[str, Any]) -> NodeRoom:
        """A node of `ray.nodes()` that is empty."""
        resources = node["Resources"]
        taken = driver_cpus() if node["NodeID"] == ray.get_runtime_context().get_node_id() else 0.0
        return cls(resources.get("CPU", 0.0) - taken, resources.get("GPU", 0.0), node["Labels"])

    def takes(self, bundle: RoleBundle) -> bool:
        """Whether there is room left for one of the bundle's actors."""
        fits = self.cpus >= bundle.cpus - 1e-9 and self.gpus >= bundle.gpus - 1e-9
        return fits and bundle.labels.items() <= self.labels.items()


class Placement:
    """The placement groups of a run: one a role whose bundles go together, else one a rank."""

    def __init__(self, bundles: Sequence[RoleBundle]) -> None:
        self._bundles = {bundle.role: bundle for bundle in bundles}
        self._groups: dict[tuple[str, int], PlacementGroup] = {}
        for bundle in bundles:
            for rank in range(bundle.count):
                self._group(bundle.role, rank)

    def wait(self, timeout_s: float) -> None:
        """Block until every reservation is granted.

        Raises:
            PlacementError: names the roles that are still pending at the deadline.

        """
        deadline = time.monotonic() + timeout_s
        for (role, rank), group in self._groups.items():
            while not group.wait(1.0) and time.monotonic() < deadline:
                raise_if_due()
            if not self.is_granted(role, rank):
                raise PlacementError(f"{role}: the cluster did not grant its resources within {timeout_s:.0f} s")

    def options(self, role: str, rank: int) -> dict[str, Any]:
        """Ray actor options that put this actor on its reservation, which is made if the rank is new."""
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        bundle, group = self._bundles[role], self._group(role, rank)
        index = rank if bundle.together else 0
        return {
            "num_cpus": bundle.cpus,
            "num_gpus": bundle.gpus,
            "scheduling_strategy": PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=index),
        }

    def count_nodes(self, role: str) -> int:
        """Nodes that could hold an actor of the role if they were empty: not a head without work, for example."""
        return sum(NodeRoom.of(node).takes(self._bundles[role]) for node in ray.nodes() if node["Alive"])

    def is_granted(self, role: str, rank: int) -> bool:
        """Whether the cluster has room for the rank; a node that was lost took its reservations with it."""
        return bool(placement_group_table(self._group(role, rank))["state"] == "CREATED")

    def give_back(self, role: str, rank: int) -> None:
        """The reservation of a rank that is not needed any more."""
        assert not self._bundles[role].together
        if (group := self._groups.pop((role, rank), None)) is not None:
            remove_placement_group(group)

    def release(self) -> None:
        """Give all reservations back."""
        for group in self._groups.values():
            remove_placement_group(group)
        self._groups.clear()

    def _group(self, role: str, rank: int) -> PlacementGroup:
        bundle = self._bundles[role]
        key = (role, 0 if bundle.together else rank)
        if key not in self._groups:
            resources = {"CPU": bundle.cpus} | ({"GPU": bundle.gpus} if bundle.gpus else {})
            count = bundle.count if bundle.together else 1
            self._groups[key] = placement_group(
                [resources] * count,
                strategy="SPREAD" if bundle.spread else "PACK",
                bundle_label_selector=[dict(bundle.labels)] * count if bundle.labels else None,
            )
        return self._groups[key]
