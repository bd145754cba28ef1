"""A cluster with a dashboard that asks for a token, and the shell of somebody who uses it."""

import subprocess
import sys
import time
from pathlib import Path

import requests

from tests.ports import free_port
from tests.system import ray_nodes

TOKEN = "a-token-of-the-tests-0123456789abcdef"
ROOT = Path(__file__).parents[2]
START_S = 180


class TokenCluster:
    """One head, and nodes that are added."""

    def __init__(self, home: Path, cpus: float = 2):
        self._shell, dashboard = shell(home), free_port()
        self.address = f"http://127.0.0.1:{dashboard}"
        client_port = f"--ray-client-server-port={free_port()}"
        head, self._gcs = ray_nodes.start_head(
            "--dashboard-host=127.0.0.1", client_port, *_options(), variables=self._shell, cpus=cpus,
            dashboard_port=dashboard,
        )  # fmt: skip
        self._nodes = [head]
        self._wait()

    def add_node(self, cpus: float = 2):
        self._nodes.append(ray_nodes.start_worker(self._gcs, *_options(), variables=self._shell, cpus=cpus))
        self._wait()

    def ask(self, path):
        """What the dashboard's API answers."""
        answer = requests.get(f"{self.address}{path}", headers={"Authorization": f"Bearer {TOKEN}"}, timeout=60)
        return answer.json()

    def state(self, what):
        """A list of Ray's state API: nodes, actors."""
        return self.ask(f"/api/v0/{what}?detail=1")["data"]["result"]["result"]

    def kill(self):
        """SIGKILL to everything, drivers and actors too: the machines have lost power."""
        for node in self._nodes:
            node.end()

    def _wait(self):
        deadline = time.monotonic() + START_S
        while self._alive() < len(self._nodes):
            assert time.monotonic() < deadline, self._nodes[-1].log.read_text()
            assert self._nodes[-1].process.poll() is None, self._nodes[-1].log.read_text()
            time.sleep(1)

    def _alive(self):
        try:
            return sum(node["state"] == "ALIVE" for node in self.state("nodes"))
        except (requests.RequestException, ValueError, KeyError, TypeError):
            return 0


def _options():
    return f"--dashboard-agent-listen-port={free_port()}", "--object-store-memory=100000000"


def shell(home: Path, token: str | None = TOKEN):
    """Variables of somebody's shell; an empty one is not set."""
    return {
        "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin",
        "PYTHONPATH": str(ROOT),
        "HOME": str(home),
        "HF_HUB_OFFLINE": "1",
        "RAY_AUTH_MODE": "token" if token else "",
        "RAY_AUTH_TOKEN": token or "",
    }


def rayrlhf(*words, home, cwd, token=TOKEN, timeout=420):
    """Run the command line to its end."""
    return subprocess.run(
        command(*words), cwd=cwd, env=environment(home, token), capture_output=True, text=True, timeout=timeout
    )


def environment(home: Path, token: str | None = TOKEN):
    """All of the shell's variables."""
    return ray_nodes.environment(shell(home, token))


def command(*words):
    return [sys.executable, "-m", "rayrlhf.cli", *map(str, words)]
