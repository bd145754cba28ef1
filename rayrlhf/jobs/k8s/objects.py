"""The pieces of Kubernetes that are written here, and no more: typed, in Kubernetes' own names.

Knows nothing of Ray. A misspelt field is a Python error, not a key that an API server drops.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

Labels = Mapping[str, str]


class Piece(BaseModel):
    """Any part of a manifest. Written as `snake_case` here and `camelCase` there."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True)

    def manifest(self) -> dict[str, Any]:
        """As the API server takes it; what is unset is left out."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


class Metadata(Piece):
    """Of an object or a pod template."""

    name: str | None = None
    generate_name: str | None = None
    namespace: str | None = None
    labels: Labels | None = None
    annotations: Labels | None = None


class Manifest(Piece):
    """A whole object."""

    api_version: str
    kind: str
    metadata: Metadata


class ConfigMap(Manifest):
    """Files for pods."""

    api_version: str = "v1"
    kind: str = "ConfigMap"
    data: Mapping[str, str]


class Namespace(Manifest):
    """A namespace."""

    api_version: str = "v1"
    kind: str = "Namespace"


class ServiceAccount(Manifest):
    """Who pods are for the API server."""

    api_version: str = "v1"
    kind: str = "ServiceAccount"
    automount_service_account_token: bool = False


class PolicyRule(Piece):
    """What a role may do."""

    api_groups: Sequence[str]
    resources: Sequence[str]
    verbs: Sequence[str]
    resource_names: Sequence[str] | None = None


class Role(Manifest):
    """Rights in a namespace."""

    api_version: str = "rbac.authorization.k8s.io/v1"
    kind: str = "Role"
    rules: Sequence[PolicyRule]


class RoleRef(Piece):
    """The role that is given."""

    api_group: str = "rbac.authorization.k8s.io"
    kind: str = "Role"
    name: str


class Subject(Piece):
    """Whom it is given to."""

    kind: str = "ServiceAccount"
    name: str
    namespace: str


class RoleBinding(Manifest):
    """Gives a role."""

    api_version: str = "rbac.authorization.k8s.io/v1"
    kind: str = "RoleBinding"
    role_ref: RoleRef
    subjects: Sequence[Subject]


class ClaimResources(Piece):
    """How much storage."""

    requests: Mapping[str, str]


class ClaimSpec(Piece):
    """A claim on storage."""

    access_modes: Sequence[str]
    storage_class_name: str | None = None
    resources: ClaimResources


class PersistentVolumeClaim(Manifest):
    """Storage that outlives pods."""

    api_version: str = "v1"
    kind: str = "PersistentVolumeClaim"
    spec: ClaimSpec


class ServicePort(Piece):
    """A port of a service."""

    name: str
    port: int


class ServiceSpec(Piece):
    """A stable name for pods, inside the cluster."""

    type: str = "ClusterIP"
    selector: Labels
    ports: Sequence[ServicePort]


class Service(Manifest):
    """A service."""

    api_version: str = "v1"
    kind: str = "Service"
    spec: ServiceSpec


class Selector(Piece):
    """Objects by their labels; an empty one is all."""

    match_labels: Labels | None = None


class Peer(Piece):
    """The other end of a connection."""

    pod_selector: Selector | None = None
    namespace_selector: Selector | None = None


class NetworkPort(Piece):
    """A port of a connection."""

    port: int
    protocol: str = "TCP"


class Ingress(Piece):
    """Who may connect to the pods. Without ports: to all."""

    from_: Sequence[Peer] = Field(alias="from")
    ports: Sequence[NetworkPort] | None = None


class Egress(Piece):
    """Where the pods may connect to. Without `to`: anywhere, on these ports."""

    to: Sequence[Peer] | None = None
    ports: Sequence[NetworkPort] | None = None


class NetworkPolicySpec(Piece):
    """Everything else is refused."""

    pod_selector: Selector
    policy_types: Sequence[str]
    ingress: Sequence[Ingress]
    egress: Sequence[Egress]


class NetworkPolicy(Manifest):
    """Who may talk to whom."""

    api_version: str = "networking.k8s.io/v1"
    kind: str = "NetworkPolicy"
    spec: NetworkPolicySpec
