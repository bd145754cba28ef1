"""Feedback while the service is killed:  python -m tests.benchmarks.feedback_kills

10,000 posts from 16 clients to a running service whose HTTP side is killed by SIGKILL three times. Clients send a post
again (the same key) until it is acknowledged. Afterwards each acknowledged post has to be in the store, once.
"""

import argparse
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.system.served import post_feedback, running


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--posts", type=int, default=10_000)
    parser.add_argument("--kills", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, running(Path(folder), replicas=1) as serving:
        each = arguments.posts // 16
        answers = [[serving.answer(f"user {user}", n) for n in range(each)] for user in range(16)]
        acknowledged, stopped = [], threading.Event()
        began = time.monotonic()
        with ThreadPoolExecutor(16) as pool:
            done = [
                pool.submit(post_feedback, serving, f"user {n}", mine, acknowledged) for n, mine in enumerate(answers)
            ]
            for kill in range(arguments.kills):
                while len(acknowledged) < arguments.posts * (kill + 1) // (arguments.kills + 1):
                    stopped.wait(0.05)
                serving.kill_ingress()
            retries = sum(future.result() for future in done)
        took = time.monotonic() - began
        stored = Counter(opinion.response_id for opinion in serving.feedback.store.snapshot().opinions)
    lost = [response_id for response_id in acknowledged if stored[response_id] == 0]
    doubled = [response_id for response_id, count in stored.items() if count > 1]
    print(f"{len(acknowledged)} posts acknowledged in {took:.0f} s, {arguments.kills} kills, {retries} sent again")
    print(f"in the store {sum(stored.values())}, lost {len(lost)}, doubled {len(doubled)}")


if __name__ == "__main__":
    main()
