"""Ray nodes as people start them, with `ray start`, each with its own token, ports and folder; ended as a whole."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import psutil

from rayrlhf.runtime.security import Access, probe
from tests.ports import free_port

RAY = str(Path(sys.executable).parent / "ray")
TOKEN = {"RAY_AUTH_MODE": "token"}
OPEN = {"RAY_AUTH_MODE": "disabled", "RAY_AUTH_TOKEN": ""}
START_S = 60


class Node:
    """A node; `on` is what its commands are run with, as in the network namespace of a host."""

    def __init__(self, arguments, variables=TOKEN, on=()):
        self.folder = Path(tempfile.mkdtemp(prefix="rf-"))  # short, because it holds sockets
        self.log = self.folder / "start.log"
        command = [*on, RAY, "start", "--block", "--disable-usage-stats", f"--temp-dir={self.folder}", *arguments]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, env=environment(variables), stdout=log, stderr=log, start_new_session=True
            )

    def wait_until_joined(self):
        """It is part of its cluster."""
        deadline = time.monotonic() + START_S
        while "Ray runtime started" not in self.log.read_text():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.3)

    def kill(self):
        """SIGKILL to all of its processes, as if the machine lost power."""
        found = [psutil.Process(self.process.pid)] if psutil.pid_exists(self.process.pid) else []
        everything = found + [child for process in found for child in process.children(recursive=True)]
        for process in everything:
            try:
                process.send_signal(signal.SIGKILL)
            except psutil.NoSuchProcess:
                continue
        self.process.wait(20)

    def end(self):
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


def environment(variables=TOKEN):
    """This process's, without an address or an open door that were meant for another cluster."""
    kept = {k: v for k, v in os.environ.items() if k not in ("RAY_ADDRESS", "RAYRLHF_ALLOW_INSECURE")}
    return {k: v for k, v in {**kept, **variables}.items() if v}


def start_head(*arguments, ip="127.0.0.1", variables=TOKEN, on=(), cpus=2, dashboard_port=None):
    """The node and its address."""
    port = free_port()
    dashboard = (
        [f"--dashboard-port={dashboard_port}", "--include-dashboard=true"]
        if dashboard_port
        else ["--include-dashboard=false"]
    )
    node = Node(
        ["--head", f"--port={port}", f"--node-ip-address={ip}", f"--num-cpus={cpus}", *dashboard, *arguments],
        variables,
        on,
    )
    return node, f"{ip}:{port}"


def start_worker(address, *arguments, ip="127.0.0.1", variables=TOKEN, on=(), cpus=2):
    """A node that joins the head at `address`."""
    return Node([f"--address={address}", f"--node-ip-address={ip}", f"--num-cpus={cpus}", *arguments], variables, on)


def wait_until_up(address, wanted=(Access.TOKEN_ACCEPTED, Access.OPEN)):
    """What the cluster answers."""
    deadline = time.monotonic() + START_S
    while (access := probe(address, 2)) not in wanted and time.monotonic() < deadline:
        time.sleep(0.3)
    return access


@contextmanager
def cluster(*arguments, variables=TOKEN, wanted=(Access.TOKEN_ACCEPTED, Access.OPEN)):
    """A head alone; gives its address."""
    node, address = start_head(*arguments, variables=variables)
    try:
        assert wait_until_up(address, wanted) in wanted, node.log.read_text()
        yield address
    finally:
        node.end()
