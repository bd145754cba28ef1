"""A reward service as a process of its own:  python -m tests.system.reward_server MODEL TOKENS PORT"""

import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import psutil

from rayrlhf.serving.reward_server import serve_reward
from rayrlhf.serving.reward_settings import RewardServiceSettings

ROOT = Path(__file__).parents[2]
MAX_SEQUENCE_TOKENS = 256


@contextmanager
def serving(model, tokens, port, log):
    """The process, once it has said that it scores; it is asked to end, and has to do so by itself."""
    command = [sys.executable, "-m", "tests.system.reward_server", str(model), str(tokens), str(port)]
    with log.open("w") as output:
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + 180
        while "scores with" not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        yield process
        process.terminate()
        assert process.wait(60) == 0, log.read_text()
    finally:
        process.kill()


def replica_of(process):
    """The process of the replica that holds the model, if there is one."""
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            if "RewardReplica" in " ".join(child.cmdline()):
                return child
        except psutil.NoSuchProcess:
            continue
    return None


if __name__ == "__main__":
    settings = RewardServiceSettings(
        tokens=sys.argv[2], port=int(sys.argv[3]), cpus=0.5, threads=1, max_sequence_tokens=MAX_SEQUENCE_TOKENS
    )
    serve_reward(sys.argv[1], settings)
