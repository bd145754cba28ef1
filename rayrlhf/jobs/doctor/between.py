"""What is between nodes: their clocks, whether each reaches each, and how fast ranks on them talk."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from rayrlhf.jobs.doctor.cluster import judge_clocks
from rayrlhf.jobs.doctor.facts import NodeFacts
from rayrlhf.jobs.doctor.findings import Finding
from rayrlhf.jobs.doctor.network import REACH, connect_to, free_port, judge_network, judge_reach, listen
from rayrlhf.jobs.doctor.party import Nodes
from rayrlhf.jobs.doctor.ring import TIMEOUT_S, RingFacts, gather_ring, judge_ring
from rayrlhf.runtime.node_probes import ClusterNode

SHORT_S = 60.0
FIRST_GPU = "0"


def examine(nodes: Nodes, facts: Mapping[str, NodeFacts], say: Callable[[str], None]) -> Iterator[list[Finding]]:
    """`facts` by name of node."""
    clocks = nodes.probes.clocks(SHORT_S)
    yield judge_clocks({nodes.names[node]: reading for node, reading in clocks.values.items()})
    if len(nodes.nodes) < 2:
        return
    say("nodes connect to each other")
    reach = _reach(nodes)
    yield reach
    if all(may_meet(one) for one in facts.values()) and not any(finding.is_red for finding in reach):
        say("ranks on the nodes meet")
        for members in rings(nodes.nodes, {node.id: facts.get(nodes.names[node.id]) for node in nodes.nodes}):
            yield _ring(nodes, members)


def may_meet(facts: NodeFacts) -> bool:
    """Whether ranks on the node have an interface; without one they only fail later, and with less to say."""
    return not any(finding.is_red for finding in judge_network(facts.network, alone=False))


def _reach(nodes: Nodes) -> list[Finding]:
    ports = nodes.ask(listen, SHORT_S, {node.id: (node.address,) for node in nodes.nodes})
    listening = [node for node in nodes.nodes if node.id in ports.values]
    targets = {
        node.id: ([(nodes.names[o.id], o.address, ports.values[o.id]) for o in listening if o is not node],)
        for node in listening
    }
    answers = nodes.ask(connect_to, SHORT_S, targets)
    trouble = {nodes.names[node]: missing for node, missing in answers.values.items()}
    found = judge_reach(trouble, [nodes.names[node.id] for node in listening])
    remedy = "its address is not one of its interfaces: start it with the right `ray start --node-ip-address`"
    return [REACH.red(why, remedy).on(nodes.names[node]) for node, why in ports.failures.items()] + found


def rings(nodes: Sequence[ClusterNode], facts: Mapping[str, NodeFacts | None]) -> list[list[ClusterNode]]:
    """Ranks run on nodes of one kind: those with GPUs, and those without that take work at all."""
    with_gpus = [node for node in nodes if (known := facts[node.id]) is not None and known.imports.devices > 0]
    without = [node for node in nodes if node not in with_gpus and node.cpus > 0]
    return [members for members in (with_gpus, without) if len(members) > 1]


def _ring(nodes: Nodes, members: Sequence[ClusterNode]) -> list[Finding]:
    first = members[0]
    port = nodes.ask(free_port, SHORT_S, {first.id: ()}).values.get(first.id, 0)
    arguments = {node.id: (rank, len(members), first.address, port, FIRST_GPU) for rank, node in enumerate(members)}
    answers = nodes.ask(gather_ring, TIMEOUT_S + SHORT_S, arguments)
    lost = {node: RingFacts({}, why) for node, why in answers.failures.items()}
    return judge_ring({nodes.names[node]: ring for node, ring in (answers.values | lost).items()})


def ring_here(gpus: int) -> list[Finding]:
    """Two ranks on this machine, each with a GPU where there are two."""
    port = free_port()

    def be(rank: int) -> RingFacts:
        return gather_ring(rank, 2, "127.0.0.1", port, str(rank) if gpus > 1 else "")

    with ThreadPoolExecutor(2) as threads:
        found = list(threads.map(be, range(2)))
    return judge_ring({f"rank {rank}": ring for rank, ring in enumerate(found)})
