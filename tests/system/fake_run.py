"""The loop over fake roles, for tests of its orchestration."""

import itertools

import ray

from rayrlhf.data.prompts import PromptSet
from rayrlhf.loop.checkpoint import CheckpointStore
from rayrlhf.loop.roles import Roles, start_training
from rayrlhf.observability.display import Display
from rayrlhf.observability.events import EventLog
from rayrlhf.observability.timeline import Timeline
from rayrlhf.runtime.cluster import Placement
from rayrlhf.runtime.interruption import Interruption
from rayrlhf.runtime.worker_group import WorkerGroup, gather
from rayrlhf.stages.bundles import role_bundles
from rayrlhf.stages.resume import resume_point
from rayrlhf.stages.rl import RLInputs, RunWatch, build_loop
from rayrlhf.stages.run_directory import RunDirectory
from rayrlhf.types import Message, Prompt
from tests.system import jobs
from tests.system.fake_roles import FakeCritic, FakeLearner, FakeReference, FakeReward, FakeRollout


class Memory:
    """A tracker that keeps what it is told."""

    def __init__(self):
        self.rows = []

    def log(self, step, metrics, samples):
        self.rows.append((step, dict(metrics)))


class At:
    """A watcher that does something once, when a step begins."""

    def __init__(self, step, action):
        self.step, self.action, self.done = step, action, False

    def __call__(self, name, step):
        if step >= self.step and not self.done:
            self.done = True
            self.action()


def prompts(count=10, poison=None):
    ids = ["poison" + str(i) if i in (poison or ()) else str(i) for i in range(count)]
    return PromptSet(tuple(Prompt(i, (Message(role="user", content=i),), (1, 2, 3)) for i in ids), ())


class FakeRun:
    """A loop over fakes; `sections` change the job, `faults` a role's behaviour as {role: (rank, method, what, …)}.

    A fault belongs to the rank's first actor; its successors are well. `always` makes it theirs too. `placed`: on
    reservations, as a real run's roles are.
    """

    def __init__(
        self,
        folder,
        tensors=3,
        faults=None,
        work_s=0.0,
        always=False,
        watchers=(),
        poison=None,
        placed=False,
        **sections,
    ):
        folder.mkdir(parents=True, exist_ok=True)
        self.job = jobs.make(folder, folder, **sections)
        self.faults, self.settings, self.always = faults or {}, (tensors, work_s), always
        self.directory = RunDirectory.of(self.job)
        chosen = prompts(poison=poison)
        self.resumed_from, self.progress = resume_point(self.job, self.directory, chosen, "auto")
        self.directory.create(self.job)
        journal, job = str(self.directory.trajectories), self.job
        self.placement = Placement(role_bundles(job)) if placed else None
        critic = self._group("critic", FakeCritic, job.critic.ranks) if job.has_critic else None
        reference = self._group("reference", FakeReference, job.reference.workers) if job.has_reference else None
        self.roles = Roles(
            self._group("rollout", FakeRollout, job.rollout.workers, journal),
            self._group("reward", FakeReward, job.reward.workers),
            self._group("learner", FakeLearner, job.learner.ranks, journal),
            reference,
            critic,
        )
        gather([call for group in self.roles.all for call in group.start_ready()], 180, "start")
        start_training(self.roles.training, self.resumed_from, 180.0)
        inputs = RLInputs(chosen, (), self.directory, self.resumed_from, self.progress)
        self.interruption = Interruption(job.recovery.grace_s)
        watch = RunWatch(
            Display(job.run.steps, 10**9),
            Timeline(watchers=watchers),
            EventLog(self.directory.events),
            self.interruption,
        )
        self.loop = build_loop(job, inputs, self.roles, watch)
        self.memory = Memory()
        self.loop.trackers = [self.loop.trackers[0], self.memory]
        self.store = CheckpointStore(self.directory.checkpoints, job.checkpoint.keep, {})

    def _group(self, role, cls, count, *args):
        fault = self.faults.get(role)
        lives = {rank: itertools.count() for rank in range(count)}

        def make(rank):
            first = next(lives.setdefault(rank, itertools.count())) == 0 or self.always
            mine = (*fault[1:], 1)[:3] if fault and fault[0] == rank and first else None
            groups = getattr(cls, "CONCURRENCY", None)
            remote = ray.remote(concurrency_groups=groups)(cls) if groups else ray.remote(cls)
            options = self.placement.options(role, rank) if self.placement else {"num_cpus": 0}
            return remote.options(**options).remote(*args, rank, mine, *self.settings)

        return WorkerGroup(role, make, count, self.placement)

    def ask(self, group, method):
        return ray.get([getattr(group._actors[rank], method).remote() for rank in group.live], timeout=30)

    def calls(self, group):
        return [call for calls in self.ask(group, "seen") for call in calls]

    def history(self):
        """(state, what was learned) of learner rank 0."""
        return self.ask(self.roles.learner, "history")[0]

    def events(self):
        return jobs.events(self.directory)
