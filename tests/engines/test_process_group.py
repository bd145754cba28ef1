"""A group starts without building kernels, so no lock of a build that was killed can hold it up."""

import os
import subprocess
import sys

from tests.ports import free_port

JOIN = """
import sys
from rayrlhf.engines.process_group import join
from rayrlhf.role_types import Rendezvous
join(Rendezvous("127.0.0.1", int(sys.argv[1]), 1, 30.0), 0)
"""


def test_a_lock_that_a_killed_build_left_holds_nobody_up(tmp_path):
    folder = tmp_path / f"py{sys.version_info.major}{sys.version_info.minor}_cpu" / "deepspeed_shm_comm"
    for lock in (folder / "lock", tmp_path / "deepspeed_shm_comm" / "lock"):
        lock.parent.mkdir(parents=True)
        lock.touch()
    variables = {**os.environ, "TORCH_EXTENSIONS_DIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", JOIN, str(free_port())], env=variables, check=True, timeout=60)
    assert not list(tmp_path.rglob("*.so"))
