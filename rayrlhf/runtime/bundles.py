"""What a role reserves, in numbers: placement, manifests, the doctor and the planner count from here. No Ray."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class RoleBundle:
    """What one actor of a role reserves. `together` bundles of a role share a placement group.

    An actor goes only to a node that has all `labels` (Ray's node labels, from `ray start --labels` or a KubeRay
    worker group).
    """

    role: str
    count: int
    cpus: float
    gpus: float
    together: bool = False
    spread: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def where(self) -> str:
        """The nodes that will do, in words; empty where all will."""
        return "".join(f" with the label {key}={value}" for key, value in sorted(self.labels.items()))
