"""The loop over fake roles, for tests of its orchestration."""

import ray

from rayrlhf.data.prompts import PromptSet
from rayrlhf.loop.checkpoint import CheckpointStore
from rayrlhf.loop.progress import Progress, config_digest
from rayrlhf.loop.rlhf_loop import RLHFLoop, Roles
from rayrlhf.loop.stream import RolloutStream
from rayrlhf.observability.timeline import Timeline
from rayrlhf.runtime.worker_group import WorkerGroup, gather
from rayrlhf.types import Message, Prompt
from rayrlhf.weight_sync.push import SyncTolerance, WeightSync
from tests.system import jobs
from tests.system.fake_roles import FakeLearner, FakeReward, FakeRollout


class Memory:
    """A tracker that keeps what it is told."""

    def __init__(self):
        self.rows = []

    def log(self, step, metrics, samples):
        self.rows.append((step, dict(metrics)))


class FakeRun:
    """A loop over fakes; `sections` change the job, `faults` a role's behaviour as {role: (rank, method, what)}."""

    def __init__(self, folder, progress=None, tensors=3, faults=None, **sections):
        folder.mkdir(parents=True, exist_ok=True)
        self.job = jobs.make(folder, folder, **sections)
        self.faults, self.tensors = faults or {}, tensors
        rollout = self._group("rollout", FakeRollout, self.job.rollout.workers)
        learner = self._group("learner", FakeLearner, self.job.learner.ranks)
        self.roles = Roles(rollout, self._group("reward", FakeReward, 1), learner, None, None)
        prompts = PromptSet(
            tuple(Prompt(str(i), (Message(role="user", content=str(i)),), (1, 2, 3)) for i in range(10)), ()
        )
        job = self.job
        self.memory = Memory()
        self.store = CheckpointStore(folder / "checkpoints", job.checkpoint.keep, config_digest(job))
        self.loop = RLHFLoop(
            job,
            self.roles,
            RolloutStream(rollout, prompts, job.rollout, job.seed, job.run.steps),
            WeightSync(learner, rollout, 1, SyncTolerance.of("float32"), job.weight_sync.timeout_s, (1, 2, 3)),
            self.store,
            [self.memory],
            Timeline(),
            progress or Progress(0, 0, job.algorithm.kl_coefficient),
        )

    def _group(self, role, cls, count):
        fault = self.faults.get(role)
        actors = [
            ray.remote(cls).options(num_cpus=0).remote(r, fault[1:] if fault and fault[0] == r else None, self.tensors)
            for r in range(count)
        ]
        group = WorkerGroup(role, actors)
        gather(group.start_ready(), 60, "start")
        return group

    def ask(self, group, method):
        return ray.get([getattr(actor, method).remote() for actor in group._actors], timeout=30)

    def calls(self, group):
        return [call for calls in self.ask(group, "seen") for call in calls]
