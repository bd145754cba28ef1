"""Who is examined: this machine alone, or every node of a cluster. Both are asked in the same way."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from rayrlhf.runtime.node_probes import Answers, ClusterNode, NodeProbes

T = TypeVar("T")
HERE = "here"


@dataclass(frozen=True, slots=True)
class Room:
    """What a node offers to a job: as Ray counts, or would count."""

    id: str
    cpus: float
    gpus: float
    labels: Mapping[str, str] = field(default_factory=dict)


class Party(Protocol):
    """`names` are for people, by node id."""

    names: Mapping[str, str]

    def ask(
        self, function: Callable[..., T], timeout_s: float, arguments: dict[str, tuple[Any, ...]] | None = None
    ) -> Answers[T]:
        """What the function returns on each node, or on those that `arguments` names."""
        ...


class ThisMachine:
    """One node, this process."""

    def __init__(self) -> None:
        self.names: Mapping[str, str] = {HERE: socket.gethostname()}

    def ask(
        self, function: Callable[..., T], timeout_s: float, arguments: dict[str, tuple[Any, ...]] | None = None
    ) -> Answers[T]:
        """Call it; every function that may hang has a deadline of its own."""
        values = (arguments or {HERE: ()})[HERE]
        return Answers({HERE: function(*values)}, {})


class Nodes:
    """The nodes of a cluster that answer. `silent` says why others do not."""

    def __init__(self, nodes: list[ClusterNode], timeout_s: float) -> None:
        self.names: Mapping[str, str] = node_names(nodes)
        self.probes = NodeProbes(nodes)
        self.silent = self.probes.ask(_here, timeout_s).failures
        for node in self.silent:
            self.probes.forget(node)
        self.nodes = [node for node in nodes if node.id not in self.silent]

    def ask(
        self, function: Callable[..., T], timeout_s: float, arguments: dict[str, tuple[Any, ...]] | None = None
    ) -> Answers[T]:
        """On all that answered so far."""
        return self.probes.ask(function, timeout_s, arguments)


def _here() -> bool:
    return True


def node_names(nodes: list[ClusterNode]) -> dict[str, str]:
    """The address, with some of the id where nodes share one."""
    shared = Counter(node.address for node in nodes)
    return {n.id: n.address if shared[n.address] == 1 else f"{n.address}/{n.id[:6]}" for n in nodes}
