"""What one node knows of itself, gathered there and judged elsewhere: plain values, so a test can make any of them."""

from __future__ import annotations

from dataclasses import dataclass

from rayrlhf.jobs.doctor.findings import Finding
from rayrlhf.jobs.doctor.gpus import GpuFacts, gather_gpus, judge_gpus
from rayrlhf.jobs.doctor.imports import ImportFacts, gather_imports, judge_imports
from rayrlhf.jobs.doctor.machine import MachineFacts, gather_machine, judge_machine
from rayrlhf.jobs.doctor.network import NetworkFacts, gather_network, judge_network
from rayrlhf.jobs.doctor.versions import VersionFacts, gather_versions, judge_versions


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """One node, by topic."""

    versions: VersionFacts
    imports: ImportFacts
    machine: MachineFacts
    gpus: GpuFacts
    network: NetworkFacts


def gather_node(ray_gpus: float | None = None) -> NodeFacts:
    """Look at this node; `ray_gpus` are those that Ray counts on it. Takes as long as importing vLLM."""
    return NodeFacts(
        versions=gather_versions(),
        imports=gather_imports(),
        machine=gather_machine(),
        gpus=gather_gpus(ray_gpus),
        network=gather_network(),
    )


def judge_node(facts: NodeFacts, *, alone: bool) -> list[Finding]:
    """All checks that need nothing but the node's own facts. `alone`: it is not part of a cluster."""
    return [
        *judge_versions(facts.versions),
        *judge_imports(facts.imports),
        *judge_machine(facts.machine),
        *judge_gpus(facts.gpus, facts.imports),
        *judge_network(facts.network, alone=alone),
    ]
