"""`python -m tests.system.fake_job FOLDER STEPS [URL]`: the fake PPO run of the kill matrix, resumed where it is.

URL is its `run.directory`; without one, that is FOLDER/runs.
"""

import sys
from pathlib import Path

import ray

from tests.system.fake_run import FakeRun

SECTIONS = {
    "algorithm": {"kind": "ppo"},
    "rollout": {"workers": 2},
    "learner": {"ranks": 2},
    "checkpoint": {"every_steps": 2},
    "recovery": {"backoff_s": 0.1},
}


def make(folder, steps, directory=None):
    run = {"steps": steps, "phase_timeout_s": 60.0} | ({"directory": directory} if directory else {})
    return FakeRun(folder, work_s=0.05, **SECTIONS, run=run)


if __name__ == "__main__":
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    make(Path(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:]).loop.run()
