"""What only a cluster can have wrong: silent nodes, clocks that differ, a dashboard out of reach, small stores."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from urllib.parse import urlsplit

from rayrlhf.jobs.doctor.findings import Check, Finding
from rayrlhf.jobs.doctor.machine import GIB, Space
from rayrlhf.runtime.node_probes import ClockReading

SKEW_WORTH_A_LOOK_S, SKEW_WRONG_S = 0.5, 5.0
"""Timelines of several nodes are read together; signed requests to stores and tokens end by the clock."""
OBJECTS_WANTED_GIB = 1.0
NODES, CLOCKS, DASHBOARD, OBJECTS = (
    Check("cluster", name) for name in ("nodes", "clocks", "dashboard", "object store")
)


def judge_nodes(names: Mapping[str, str], failures: Mapping[str, str]) -> list[Finding]:
    """Every node that the cluster holds for alive answers; `failures` by node id."""
    found = []
    for node, why in failures.items():
        remedy = (
            "look at its raylet and its logs (/tmp/ray/session_latest/logs), or take the node out: `ray stop` there"
        )
        found.append(NODES.red(f"does not answer: {why}", remedy).on(names[node]))
    return found or [NODES.green(f"{len(names)} alive, all answer")]


def judge_clocks(readings: Mapping[str, ClockReading]) -> list[Finding]:
    """No clock is surely off by more than it may; `readings` by name."""
    found, largest = [], 0.0
    for node, reading in readings.items():
        surely_s = max(0.0, abs(reading.offset_s) - reading.uncertainty_s)
        largest = max(largest, abs(reading.offset_s))
        if surely_s > SKEW_WORTH_A_LOOK_S:
            direction = "ahead of" if reading.offset_s > 0 else "behind"
            told = f"{abs(reading.offset_s):.1f} s {direction} this machine's clock"
            make = CLOCKS.red if surely_s > SKEW_WRONG_S else CLOCKS.yellow
            found.append(make(told, "run chrony or systemd-timesyncd on all nodes").on(node))
    return found or [CLOCKS.green(f"{len(readings)} nodes are within {max(largest, 0.001):.3f} s")]


def probe_dashboard(url: str | None) -> str:
    """Why the dashboard cannot be used from here; empty: it can."""
    if url is None:
        return "the cluster has none"
    parts = urlsplit(url)
    try:
        socket.create_connection((parts.hostname or "", parts.port or 80), timeout=5).close()
    except OSError as error:
        return f"{url}: {error}"
    return ""


def judge_dashboard(url: str | None, trouble: str) -> Finding:
    """Jobs are submitted to it; a run that is started on the cluster does without."""
    if trouble:
        remedy = "`rayrlhf submit` needs it: install ray[default] on the head, and tunnel port 8265 (never publish it)"
        return DASHBOARD.yellow(trouble, remedy)
    return DASHBOARD.green(f"{url} can be reached")


def judge_objects(reserved_bytes: int, shm: Space | None) -> Finding:
    """Trajectories travel through the node's object store, which has to be in its shared memory."""
    told = f"{reserved_bytes / GIB:.1f} GiB"
    if shm is not None and reserved_bytes > shm.total:
        remedy = "enlarge /dev/shm, or `ray start --object-store-memory` below it: else Ray uses the disk, slowly"
        return OBJECTS.yellow(f"{told} are reserved, /dev/shm has {shm.total / GIB:.1f}", remedy)
    if reserved_bytes < OBJECTS_WANTED_GIB * GIB:
        return OBJECTS.yellow(told, "`ray start --object-store-memory=2000000000`, or a node with more memory")
    return OBJECTS.green(told)
