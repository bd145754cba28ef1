"""A push to two real engines, of which one sleeps, raises or dies at a bucket: it ends in time, names engine and
bucket, and afterwards both are on one whole version; the healthy engine was not restarted.
"""

import os
import time
from dataclasses import replace

import pytest
import ray

from rayrlhf.data.prompts import PromptSet
from rayrlhf.loop.census import Census
from rayrlhf.loop.roles import Roles, start_training
from rayrlhf.loop.supervisor import Supervisor, Wait
from rayrlhf.loop.watchdog import Watchdog
from rayrlhf.loop.workforce import Workforce
from rayrlhf.observability.events import EventLog
from rayrlhf.role_types import Worker
from rayrlhf.roles.rollout import RolloutSetup
from rayrlhf.runtime.bundles import RoleBundle
from rayrlhf.runtime.cluster import Placement
from rayrlhf.runtime.failures import FailurePolicy
from rayrlhf.runtime.interruption import Interruption
from rayrlhf.runtime.worker_group import WorkerGroup, create_group, gather
from rayrlhf.stages.rl import weight_sync
from rayrlhf.types import Message, Prompt
from tests.engines.faults import FaultyRollout, SmallBuckets
from tests.system import jobs

TIMEOUT_S = 5.0
BUCKET = 3


class TwoEngines:
    """A learner rank and two rollout workers under a supervisor."""

    def __init__(self, folder, policy):
        job = jobs.make(folder, policy, weight_sync={"timeout_s": TIMEOUT_S}, rollout={"workers": 2})
        self.seen = []
        setup = RolloutSetup.of(job, (2,), None, 1)
        setup = replace(
            setup, spec=replace(setup.spec, worker_extension="tests.engines.faults.FaultyExtension"), journal=None
        )
        placement = Placement([RoleBundle("learner", 1, 0.1, 0), RoleBundle("rollout", 2, 0.1, 0)])
        placement.wait(60)
        aside = str(folder / "aside")
        learner = create_group(placement, "learner", SmallBuckets, 1, job, str(folder / "journal"), aside)
        rollout = create_group(placement, "rollout", FaultyRollout, 2, setup)
        self.roles = Roles(rollout, WorkerGroup("reward", lambda rank: None, 0), learner, None, None)
        start_training(self.roles.training, None, 400)
        gather(rollout.start_ready(), 400, "start")
        events = EventLog(show=lambda message: self.seen.append((time.monotonic(), message)))
        census = Census(self.roles)
        prompts = PromptSet((Prompt("p", (Message(role="user", content="x"),), tuple(range(5, 25))),), ())
        workforce = Workforce(self.roles, FailurePolicy(3, 0.1), events, census, 400.0)
        sync, watchdog = weight_sync(job, self.roles, prompts), Watchdog(census, folder / "stacks", 600.0, events)
        self.supervisor = Supervisor(self.roles, sync, workforce, Interruption(20.0), watchdog)
        self.version = 0

    def ask(self, call):
        return gather([call], 60, "test")[0]

    def push(self):
        """New weights for all; the seconds to the first failure, if there was one."""
        self.version += 1
        self.ask(self.roles.learner.start_on(0, SmallBuckets.perturb))
        self.seen.clear()
        started = time.monotonic()
        proof = self.supervisor.push(self.version)
        return proof, next((at - started for at, _ in self.seen), None)

    def until_whole(self):
        """Let the supervisor work until both workers take calls."""
        wait = Wait("test", 60.0, self.version)
        while self.roles.rollout.live != [0, 1]:
            self.supervisor.finish([self.roles.learner.start_on(0, Worker.vitals)], wait)

    def versions(self):
        return [self.ask(self.roles.rollout.start_on(rank, FaultyRollout.version)) for rank in (0, 1)]

    def pid(self, rank):
        return self.ask(self.roles.rollout.start_on(rank, Worker.vitals)).pid


@pytest.fixture(scope="module")
def engines(tmp_path_factory, tiny_policy):
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        yield TwoEngines(tmp_path_factory.mktemp("push"), tiny_policy)
    finally:
        ray.shutdown()


@pytest.mark.parametrize("what", ["raise", "sleep", "die"])
def test_a_receiver_that_misbehaves_at_a_bucket(engines, what):
    engines.push()
    healthy = engines.pid(0)
    engines.ask(engines.roles.rollout.start_on(1, FaultyRollout.plant, what, BUCKET))
    proof, failed_after_s = engines.push()
    assert failed_after_s < TIMEOUT_S + 10
    assert proof.version == engines.version
    message = engines.seen[0][1]
    assert "rollout 1" in message
    assert f"bucket {BUCKET} of" in message
    assert "rollout 0" not in message
    engines.until_whole()
    assert engines.versions() == [engines.version] * 2
    assert engines.pid(0) == healthy
    assert os.path.exists(f"/proc/{healthy}")
    engines.push()
    assert engines.versions() == [engines.version] * 2
