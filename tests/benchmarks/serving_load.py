"""A service under load while its policy is switched and a replica is killed:  python -m tests.benchmarks.serving_load

20 requests a second (16-token answers, every third streamed) for two minutes on two replicas of a tiny model; three
releases, one SIGKILL, one damaged model. Prints what became of the requests.
"""

import argparse
import asyncio
import os
import signal
import statistics
import tempfile
import time
from collections import Counter
from pathlib import Path

from rayrlhf.data.durable import write_digests
from rayrlhf.errors import ReleaseError
from tests.system.served import broken_streams, failed, running, traffic


async def story(serving, per_s, seconds):
    switches, refused = [], ""
    async with traffic(serving, per_s) as outcomes:
        began = time.monotonic()
        for number in range(3):
            await asyncio.sleep(seconds / 6)
            at = time.monotonic()
            await asyncio.to_thread(serving.service.publish, serving.model(f"switch{number}", 10 + number))
            switches.append(time.monotonic() - at)
            if number == 0:
                os.kill(serving.replica(), signal.SIGKILL)
        damaged = serving.model("damaged", 20)
        write_digests(damaged)
        (damaged / "model.safetensors").write_bytes((damaged / "model.safetensors").read_bytes()[:-1])
        try:
            await asyncio.to_thread(serving.service.publish, damaged)
        except ReleaseError as error:
            refused = str(error)
        await asyncio.sleep(max(0.0, seconds - (time.monotonic() - began)))
    return outcomes, switches, refused


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--per-s", type=float, default=20.0)
    parser.add_argument("--seconds", type=float, default=120.0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, running(Path(folder)) as serving:
        outcomes, switches, refused = asyncio.run(story(serving, arguments.per_s, arguments.seconds))
    took = sorted(outcome.seconds for outcome in outcomes)
    print(f"requests {len(outcomes)}, failed {len(failed(outcomes, streams_may_break=True))}, ", end="")
    print(f"streams that a kill broke (with an error event) {len(broken_streams(outcomes))}")
    print(f"by version {dict(sorted(Counter(str(outcome.version) for outcome in outcomes).items()))}")
    print(f"switches took {', '.join(f'{s:.1f} s' for s in switches)}; damaged model refused: {refused}")
    print(f"seconds: median {statistics.median(took):.2f}, p95 {took[int(0.95 * len(took))]:.2f}, ", end="")
    print(f"worst {took[-1]:.2f}")


if __name__ == "__main__":
    main()
