import socket

import pytest

from rayrlhf.jobs.doctor.cluster import judge_clocks, judge_objects
from rayrlhf.jobs.doctor.findings import Level
from rayrlhf.jobs.doctor.machine import GIB, Space
from rayrlhf.jobs.doctor.network import (
    NetworkFacts,
    connect_to,
    gather_network,
    is_taken,
    judge_network,
    judge_reach,
    listen,
)
from rayrlhf.jobs.doctor.ring import RingFacts, judge_ring
from rayrlhf.runtime.node_probes import ClockReading
from tests.ports import free_port
from tests.unit.jobs.doctor.findings import level_of, reds

UP = {"lo": ("127.0.0.1",), "eth0": ("10.0.0.2",), "ib0": ("10.1.0.2",)}


@pytest.mark.parametrize(
    ("variable", "value", "is_red"),
    [
        ("GLOO_SOCKET_IFNAME", "eth0", False),
        ("GLOO_SOCKET_IFNAME", "eth", True),
        ("NCCL_SOCKET_IFNAME", "eth", False),
        ("NCCL_SOCKET_IFNAME", "=eth", True),
        ("NCCL_SOCKET_IFNAME", "^lo,docker", False),
        ("NCCL_SOCKET_IFNAME", "^lo,eth,ib", True),
    ],
)
def test_an_interface_that_is_not_there_is_red(variable, value, is_red):
    found = judge_network(NetworkFacts(UP, "host", "10.0.0.2", {variable: value}), alone=False)
    assert bool(reds(found)) is is_red


def test_an_interface_of_this_machine_is_found_and_another_is_not(monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    assert reds(judge_network(gather_network(), alone=True)) == []
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "nowhere0")
    assert "GLOO_SOCKET_IFNAME=nowhere0" in reds(judge_network(gather_network(), alone=True))[0]


@pytest.mark.parametrize("resolved", ["127.0.1.1", None])
def test_a_hostname_that_others_cannot_use_is_yellow_among_nodes(resolved):
    facts = NetworkFacts(UP, "host", resolved)
    assert level_of(judge_network(facts, alone=False), "hostname") is Level.YELLOW


def test_a_port_that_somebody_listens_on_is_yellow():
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert is_taken(server.getsockname()[1])
    facts = NetworkFacts(UP, "host", "10.0.0.2", taken_ports=(6379,))
    assert level_of(judge_network(facts, alone=True), "ports") is Level.YELLOW


def test_a_node_that_cannot_reach_another_is_red_and_both_are_named():
    targets = [("up", "127.0.0.1", listen("127.0.0.1")), ("down", "127.0.0.1", free_port())]
    trouble = connect_to(targets)
    assert set(trouble) == {"down"}
    (found,) = judge_reach({"a": trouble, "up": {}}, ["a", "up"])
    assert (found.level, found.nodes) == (Level.RED, ("a",))
    assert "down (" in found.found


def test_ranks_that_do_not_meet_are_red_and_slow_ones_yellow():
    fast, slow = RingFacts({"gloo": 900.0}), RingFacts({"gloo": 40.0})
    assert level_of(judge_ring({"a": fast, "b": fast}), "ring of ranks") is Level.GREEN
    (found,) = judge_ring({"a": fast, "b": slow})
    assert (found.level, found.found) == (
        Level.YELLOW,
        "gloo among 2 ranks: 40 MiB/s or more a rank, the slowest is b",
    )
    assert "b: timed out" in reds(judge_ring({"a": fast, "b": RingFacts({}, "timed out")}))[0]
    lost = RingFacts({}, "timed out")
    assert "a, b: timed out" in reds(judge_ring({"a": lost, "b": lost}))[0]


@pytest.mark.parametrize(
    ("offset_s", "level"), [(0.01, Level.GREEN), (-1.0, Level.YELLOW), (60.0, Level.RED), (-60.0, Level.RED)]
)
def test_a_clock_that_is_surely_off_is_named(offset_s, level):
    found = judge_clocks({"a": ClockReading(0.0, 0.001), "b": ClockReading(offset_s, 0.01)})
    assert [f.level for f in found] == [level]
    assert level is Level.GREEN or found[0].nodes == ("b",)


def test_a_slow_answer_does_not_accuse_a_clock():
    assert reds(judge_clocks({"a": ClockReading(6.0, 6.0)})) == []


def test_an_object_store_beyond_shared_memory_is_yellow():
    shm = Space(GIB, GIB)
    assert judge_objects(8 * GIB, shm).level is Level.YELLOW
    assert judge_objects(8 * GIB, Space(16 * GIB, 16 * GIB)).level is Level.GREEN
