"""Which network a node's ranks would use, which of the doctor's neighbours it reaches, and which ports are taken."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Thread

import psutil

from rayrlhf.jobs.doctor.findings import Check, Finding
from rayrlhf.runtime.environment import chosen

SELECTORS = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
RAY_PORTS = {6379: "the cluster's address", 8265: "the dashboard and the jobs API", 10001: "Ray client"}
CONNECT_S = 5.0
LISTEN_S = 120.0
INTERFACE, NAME, PORTS, REACH = (Check("network", name) for name in ("interface", "hostname", "ports", "node to node"))


@dataclass(frozen=True, slots=True)
class NetworkFacts:
    """`interfaces`: addresses by name, of those that are up. `resolved`: the hostname's address, None: it has none."""

    interfaces: Mapping[str, tuple[str, ...]]
    hostname: str
    resolved: str | None
    chosen: Mapping[str, str] = field(default_factory=dict)
    taken_ports: tuple[int, ...] = ()


def gather_network() -> NetworkFacts:
    """Of this process's node."""
    up = {name for name, state in psutil.net_if_stats().items() if state.isup}
    addresses = {
        name: tuple(a.address for a in listed if a.family in (socket.AF_INET, socket.AF_INET6))
        for name, listed in psutil.net_if_addrs().items()
        if name in up
    }
    hostname = socket.gethostname()
    try:
        resolved = socket.gethostbyname(hostname)
    except OSError:
        resolved = None
    return NetworkFacts(addresses, hostname, resolved, chosen(*SELECTORS), tuple(p for p in RAY_PORTS if is_taken(p)))


def is_taken(port: int) -> bool:
    """Whether somebody listens on a port of this machine."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return True
    return False


def judge_network(facts: NetworkFacts, *, alone: bool) -> list[Finding]:
    """`alone`: a machine without others, on which Ray would be started."""
    found = [*_judge_interfaces(facts)]
    if alone:
        return [*found, _judge_ports(facts.taken_ports)]
    return [*found, *_judge_hostname(facts)]


def _judge_interfaces(facts: NetworkFacts) -> list[Finding]:
    known = ", ".join(facts.interfaces)
    found = []
    for variable, value in facts.chosen.items():
        if variable.startswith("NCCL"):
            usable = _nccl_names(value, facts.interfaces)
        else:
            usable = [name for name in value.split(",") if name in facts.interfaces]
        if not usable:
            remedy = f"set {variable} to one of {known} on this node, or unset it"
            found.append(INTERFACE.red(f"{variable}={value}, and there is no such interface that is up", remedy))
    chosen_names = ", ".join(f"{name}={value}" for name, value in facts.chosen.items())
    return found or [INTERFACE.green(f"{chosen_names or 'none is chosen'}; up are {known}")]


def _nccl_names(value: str, interfaces: Mapping[str, tuple[str, ...]]) -> list[str]:
    """NCCL's rule: a list of prefixes, of exact names after `=`, of those to leave out after `^`."""
    leave_out, exact = value.startswith("^"), value.lstrip("^").startswith("=")
    wanted = value.lstrip("^=").split(",")
    hit = [n for n in interfaces if any(n == w if exact else n.startswith(w) for w in wanted)]
    return [n for n in interfaces if n not in hit] if leave_out else hit


def _judge_hostname(facts: NetworkFacts) -> list[Finding]:
    """Gloo listens on the address of the hostname where no interface is chosen."""
    if "GLOO_SOCKET_IFNAME" in facts.chosen:
        return []
    remedy = "set GLOO_SOCKET_IFNAME to the interface of the other nodes' network, or correct /etc/hosts"
    if facts.resolved is None:
        return [NAME.yellow(f"{facts.hostname} does not resolve, so gloo falls back on the loopback address", remedy)]
    if ipaddress.ip_address(facts.resolved).is_loopback:
        return [NAME.yellow(f"{facts.hostname} is {facts.resolved}, which other nodes cannot reach", remedy)]
    return [NAME.green(f"{facts.hostname} is {facts.resolved}")]


def _judge_ports(taken: Sequence[int]) -> Finding:
    if not taken:
        return PORTS.green(f"{', '.join(map(str, RAY_PORTS))} are free for `ray start --head`")
    told = ", ".join(f"{port} ({RAY_PORTS[port]})" for port in taken)
    return PORTS.yellow(
        f"taken: {told}", "if that is a Ray cluster, check it with --address; else end what listens there"
    )


def listen(address: str) -> int:
    """A port on which this node accepts connections for a while, for its neighbours' `connect_to`."""
    server = socket.create_server((address, 0), backlog=128)
    server.settimeout(LISTEN_S)

    def accept() -> None:
        with server:
            try:
                while True:
                    server.accept()[0].close()
            except TimeoutError:
                return

    Thread(target=accept, daemon=True).start()
    return int(server.getsockname()[1])


def connect_to(targets: Sequence[tuple[str, str, int]]) -> dict[str, str]:
    """Why targets (name, address, port) cannot be reached from this node, by name; empty: all can."""
    with ThreadPoolExecutor(16) as threads:
        found = threads.map(lambda target: _connect(*target[1:]), targets)
        return {target[0]: why for target, why in zip(targets, found, strict=True) if why}


def _connect(address: str, port: int) -> str:
    try:
        socket.create_connection((address, port), timeout=CONNECT_S).close()
    except OSError as error:
        return str(error)
    return ""


def free_port() -> int:
    """One that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def judge_reach(trouble: Mapping[str, Mapping[str, str]], nodes: Sequence[str]) -> list[Finding]:
    """Every node reaches every other one, on a port that the system chose."""
    found = []
    for node in nodes:
        if missing := trouble.get(node):
            told = "; ".join(f"{other} ({why})" for other, why in missing.items())
            remedy = "open all TCP ports between the nodes: firewall, security group or NetworkPolicy"
            found.append(REACH.red(f"cannot reach {told}", remedy).on(node))
    return found or [REACH.green(f"{len(nodes) * (len(nodes) - 1)} directions, all reachable")]
