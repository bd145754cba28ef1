"""Kill a process that takes posts from several threads: what it has acknowledged is there, once."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest

from tests.unit.feedback.people import ask, service_at

POSTS = 2_000
WRITER = """
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tests.unit.feedback.people import rating, service_at
store, folder, ids = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]).read_text().split()
def post(n):
    receipt = service.feedback(rating(ids[n % len(ids)], n % 5 + 1), f"user-{n // len(ids)}")
    acknowledged.write(f"{receipt.id}\\n".encode())
with service_at(store, folder) as service, open(folder / "acknowledged", "ab", buffering=0) as acknowledged:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(post, range(int(sys.argv[4]))))
"""


@pytest.mark.parametrize("after", [50, 400])
def test_every_acknowledged_post_survives_sigkill_once(store_url, tmp_path, after):
    with service_at(store_url, tmp_path) as service:
        (tmp_path / "ids").write_text("\n".join(ask(service, "Why?", *map(str, range(40)))))
    log = tmp_path / "acknowledged"
    log.touch()
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, store_url, str(tmp_path), str(tmp_path / "ids"), str(POSTS)],
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    while log.read_bytes().count(b"\n") < after and writer.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(writer.pid, signal.SIGKILL)
    assert writer.wait(timeout=30) == -signal.SIGKILL
    acknowledged = log.read_text().split()
    assert after <= len(acknowledged) < POSTS
    with service_at(store_url, tmp_path) as service:
        stored = Counter(vote.id for vote in service.store.snapshot().opinions)
    assert set(acknowledged) <= set(stored)
    assert max(stored.values()) == 1
    # At most what each of the four threads had on its way is stored and not acknowledged.
    assert len(stored) - len(acknowledged) <= 4
