"""Asking every node of the cluster at once: an actor without resources on each. Nodes that do not answer are named.

A function that is asked for has to be importable on the nodes; it runs in the actor's process.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import ray
from ray.exceptions import RayError, RayTaskError

from rayrlhf.runtime.network import use_node_interface

T = TypeVar("T")
ROUNDS = 5
"""Readings of a clock; the one that took least counts."""


@dataclass(frozen=True, slots=True)
class ClusterNode:
    """A node that the cluster holds for alive, and what Ray counts on it."""

    id: str
    address: str
    cpus: float
    gpus: float
    object_store_bytes: int
    labels: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answers(Generic[T]):
    """By node id: what a node answered, or why it did not."""

    values: dict[str, T]
    failures: dict[str, str]


@dataclass(frozen=True, slots=True)
class ClockReading:
    """How far a node's clock is ahead of this one, give or take `uncertainty_s`."""

    offset_s: float
    uncertainty_s: float


def alive_nodes() -> list[ClusterNode]:
    """The head first."""
    nodes = [
        ClusterNode(
            node["NodeID"],
            node["NodeManagerAddress"],
            node["Resources"].get("CPU", 0.0),
            node["Resources"].get("GPU", 0.0),
            int(node["Resources"].get("object_store_memory", 0)),
            dict(node["Labels"]),
        )
        for node in ray.nodes()
        if node["Alive"]
    ]
    heads = {node["NodeID"] for node in ray.nodes() if "node:__internal_head__" in node["Resources"]}
    return sorted(nodes, key=lambda node: (node.id not in heads, node.address, node.id))


def own_node_id() -> str:
    """The node that this process is on."""
    return str(ray.get_runtime_context().get_node_id())


def dashboard_url() -> str | None:
    """Where the cluster says its dashboard is; None: it has none."""
    from ray._private.worker import get_dashboard_url

    found = get_dashboard_url()
    return f"http://{found}" if found else None


class _Probe:
    def __init__(self) -> None:
        use_node_interface()

    def run(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        return function(*arguments)


class NodeProbes:
    """One actor a node. Use `close` at the end."""

    def __init__(self, nodes: Sequence[ClusterNode]) -> None:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        self._actors = {
            node.id: ray.remote(_Probe)
            .options(
                num_cpus=0, max_concurrency=2, scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False)
            )
            .remote()
            for node in nodes
        }

    def ask(
        self, function: Callable[..., T], timeout_s: float, arguments: dict[str, tuple[Any, ...]] | None = None
    ) -> Answers[T]:
        """Call the function on all nodes, or on those that `arguments` names; wait until all answer or the deadline."""
        given = arguments if arguments is not None else dict.fromkeys(self._actors, ())
        asked = {node: self._actors[node].run.remote(function, values) for node, values in given.items()}
        ready, _ = ray.wait(list(asked.values()), num_returns=len(asked), timeout=timeout_s) if asked else ([], [])
        answers: Answers[T] = Answers({}, {})
        for node, call in asked.items():
            if call not in ready:
                answers.failures[node] = f"no answer within {timeout_s:.0f} s"
                continue
            try:
                answers.values[node] = ray.get(call, timeout=10)
            except RayTaskError as error:
                answers.failures[node] = f"{type(error.cause).__name__}: {error.cause}"
            except RayError as error:
                answers.failures[node] = str(error).strip().splitlines()[0]
        return answers

    def clocks(self, timeout_s: float) -> Answers[ClockReading]:
        """Compare every node's clock with this process's: what a call took bounds the error."""
        best: Answers[ClockReading] = Answers({}, {})
        for node in self._actors:
            for _ in range(ROUNDS):
                before = time.time()
                answer = self.ask(time.time, timeout_s, {node: ()})
                after = time.time()
                if node in answer.failures:
                    best.failures.update(answer.failures)
                    break
                reading = ClockReading(answer.values[node] - (before + after) / 2, (after - before) / 2)
                if node not in best.values or reading.uncertainty_s < best.values[node].uncertainty_s:
                    best.values[node] = reading
        return best

    def forget(self, node: str) -> None:
        """Do not ask a node any more."""
        ray.kill(self._actors.pop(node))

    def close(self) -> None:
        """End the actors."""
        for node in list(self._actors):
            self.forget(node)
