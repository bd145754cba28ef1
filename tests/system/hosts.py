"""Several hosts on one machine: network namespaces on a bridge, each with a cable that can be cut.

Processes of a host see its own loopback and one interface, and this machine's files; the tests reach all of them. It
needs root and iproute2.
"""

import os
import shutil
import subprocess
import uuid
from contextlib import contextmanager

REASON = "network namespaces need root and the command ip"


def possible():
    """Whether this machine lets us make them."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return False
    name = f"rf{uuid.uuid4().hex[:6]}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True).returncode == 0
    return made and subprocess.run(["ip", "netns", "del", name], capture_output=True).returncode == 0


def ip(*arguments):
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


class Host:
    """One of them."""

    def __init__(self, bridge, number):
        self.name, self.address = f"{bridge}h{number}", f"10.213.{int(bridge[-2:], 16)}.{number + 1}"
        self.cable = f"{bridge}c{number}"
        self.on = ["ip", "netns", "exec", self.name]
        ip("netns", "add", self.name)
        ip("link", "add", self.cable, "type", "veth", "peer", "name", "eth0", "netns", self.name)
        ip("link", "set", self.cable, "master", bridge, "up")
        ip("-n", self.name, "link", "set", "lo", "up")
        ip("-n", self.name, "address", "add", f"{self.address}/24", "dev", "eth0")
        ip("-n", self.name, "link", "set", "eth0", "up")

    def cut(self):
        """Nothing gets in or out, and nobody is told."""
        ip("link", "set", self.cable, "nomaster")

    def mend(self, bridge):
        ip("link", "set", self.cable, "master", bridge)

    def remove(self):
        subprocess.run(["ip", "netns", "del", self.name], capture_output=True)


class Network:
    """The hosts and what joins them."""

    def __init__(self, count):
        self.bridge = f"rf{uuid.uuid4().hex[:6]}"
        ip("link", "add", self.bridge, "type", "bridge")
        ip("address", "add", f"10.213.{int(self.bridge[-2:], 16)}.254/24", "dev", self.bridge)
        ip("link", "set", self.bridge, "up")
        self.hosts = [Host(self.bridge, number) for number in range(count)]

    def cut(self, host):
        host.cut()

    def mend(self, host):
        host.mend(self.bridge)

    def remove(self):
        for host in self.hosts:
            host.remove()
        subprocess.run(["ip", "link", "del", self.bridge], capture_output=True)


@contextmanager
def network(count):
    made = Network(count)
    try:
        yield made
    finally:
        made.remove()
