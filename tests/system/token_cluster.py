"""A Ray cluster that asks for a token, as `ray start` makes it: own ports, own folder, killed by pid."""

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from tests.ports import free_port

TOKEN = "a-token-of-the-tests-0123456789abcdef"
ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
START_S = 180


class TokenCluster:
    """One head, and nodes that are added."""

    def __init__(self, home: Path, cpus: float = 2):
        self.home = home
        self.folder = Path(tempfile.mkdtemp(prefix="rs", dir="/tmp"))  # sockets need a short path
        self.port, self.dashboard = free_port(), free_port()
        self.address = f"http://127.0.0.1:{self.dashboard}"
        self._nodes: list[subprocess.Popen] = []
        self._start(
            "--head", f"--port={self.port}", "--include-dashboard=true", "--dashboard-host=127.0.0.1",
            f"--dashboard-port={self.dashboard}", f"--ray-client-server-port={free_port()}",
            f"--temp-dir={self.folder}", f"--num-cpus={cpus}",
        )  # fmt: skip

    def add_node(self, cpus: float = 2):
        self._start(f"--address=127.0.0.1:{self.port}", f"--num-cpus={cpus}")

    def _start(self, *options):
        with (self.home / f"node-{self.port}-{len(self._nodes)}.log").open("wb") as log:
            node = subprocess.Popen(
                [BIN / "ray", "start", *options, "--block", "--node-ip-address=127.0.0.1", "--disable-usage-stats",
                 f"--dashboard-agent-listen-port={free_port()}", "--object-store-memory=100000000"],
                env=environment(self.home), stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip
        self._nodes.append(node)
        deadline = time.monotonic() + START_S
        while len(self.nodes()) < len(self._nodes):
            assert node.poll() is None, Path(log.name).read_text()
            assert time.monotonic() < deadline, Path(log.name).read_text()
            time.sleep(1)

    def nodes(self):
        """Nodes that are alive, as the cluster says."""
        import requests

        try:
            answer = requests.get(
                f"{self.address}/api/v0/nodes", headers={"Authorization": f"Bearer {TOKEN}"}, timeout=20
            ).json()
        except (requests.RequestException, ValueError):
            return []
        return [
            n for n in (answer.get("data") or {"result": {"result": []}})["result"]["result"] if n["state"] == "ALIVE"
        ]

    def kill(self):
        """SIGKILL to everything at once, drivers and actors too: the machines have lost power."""
        processes = []
        for node in self._nodes:
            if node.poll() is None:
                processes += [psutil.Process(node.pid), *psutil.Process(node.pid).children(recursive=True)]
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        for node in self._nodes:
            node.wait()
        psutil.wait_procs(processes, timeout=30)


def environment(home: Path, token: str | None = TOKEN):
    """What a shell has on a machine of the cluster, or with another token on somebody's laptop."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "PYTEST_"))}
    own = {"PATH": f"{BIN}:{kept['PATH']}", "PYTHONPATH": str(ROOT), "HOME": str(home), "HF_HUB_OFFLINE": "1"}
    return kept | own | ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token} if token else {})


def rayrlhf(*words, home, cwd, token=TOKEN, timeout=420):
    """Run the command line to its end."""
    return subprocess.run(
        command(*words), cwd=cwd, env=environment(home, token), capture_output=True, text=True, timeout=timeout
    )


def command(*words):
    return [sys.executable, "-m", "rayrlhf.cli", *map(str, words)]
