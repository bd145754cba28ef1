"""Deterministic roles without engines: real Ray actors for tests of the loop's orchestration."""

import os
import time
from pathlib import Path

import ray

from rayrlhf.data.prompts import PromptSet
from rayrlhf.loop.checkpoint import CheckpointStore
from rayrlhf.loop.progress import Progress, config_digest
from rayrlhf.loop.rlhf_loop import RLHFLoop, Roles
from rayrlhf.loop.stream import RolloutStream
from rayrlhf.observability.timeline import Timeline
from rayrlhf.role_types import GroupInfo, HeldWeights, Sample, SentWeights, SyncAddress, SyncInfo
from rayrlhf.runtime.worker_group import WorkerGroup, gather
from rayrlhf.types import Completion, Message, Prompt, Reward, Rewards, TokenScores, Trajectory, VersionSpan
from rayrlhf.weight_sync.push import SyncTolerance, WeightSync
from tests.system import jobs


class FakeRole:
    """Counts its calls; `fault` = (method, what) misbehaves there: die, hang, raise or (held) stale."""

    def __init__(self, rank, fault=None, tensors=3):
        self.rank, self.fault, self.tensors = rank, fault or ("", ""), tensors
        self.calls = []

    def _called(self, method):
        self.calls.append(method)
        if self.fault[0] == method:
            match self.fault[1]:
                case "die":
                    os._exit(1)
                case "hang":
                    time.sleep(3600)
                case "raise":
                    raise ValueError("broken on purpose")

    def seen(self):
        return self.calls


class FakeRollout(FakeRole):
    version = -1

    @ray.method(num_returns=2)
    def generate(self, request):
        self._called("generate")
        rows = []
        for k, seed in enumerate(request.seeds):
            tokens = tuple(4 + seed % 7 + i for i in range(2 + seed % 3))
            spans = (VersionSpan(0, len(tokens), self.version),)
            completion = Completion(tokens, (-1.0,) * len(tokens), "stop", spans)
            rows.append(Trajectory(f"{request.group_id}-{k:03d}", request.group_id, k, request.prompt, completion))
        lengths = tuple(len(t.completion.token_ids) for t in rows)
        return GroupInfo(request.group_id, tuple(t.id for t in rows), 3, lengths, self.version), rows

    def pause(self):
        self._called("pause")

    def resume(self):
        self._called("resume")

    def join_transfer(self, where, first_rank):
        self._called("join_transfer")

    def receive(self, version, info):
        self._called("receive")
        self.version = version

    def held(self, probe):
        self._called("held")
        digests = {f"t{i}": i for i in range(self.tensors)}
        version = self.version - (self.fault == ("held", "stale"))
        return HeldWeights(version, (digests,), ({},), tuple(-1.0 for _ in probe[1:]))


class FakeReward(FakeRole):
    @ray.method(num_returns=2)
    def score(self, *groups):
        self._called("score")
        rows = [t for group in groups for t in group]
        return len(rows), Rewards({t.id: Reward(float(len(t.completion.token_ids)), {}, "ok") for t in rows})

    def last_failure(self):
        return "ValueError: the judge is asleep"


class FakeLearner(FakeRole):
    failed_share = 0.0
    committed = ()

    @ray.method(num_returns=2)
    def logprobs(self, *groups):
        self._called("logprobs")
        return 0, TokenScores("policy", {})

    def learn(self, request, groups, *objects):
        self._called("learn")
        self.learned = [t.id for group in objects[:groups] for t in group]
        return {"reward/failed_share": self.failed_share, "kl/sequence_nats": 12.0, "reward/mean": 0.0}

    def fail_rewards(self, share):
        self.failed_share = share

    def sync_info(self):
        self._called("sync_info")
        return SyncInfo(tuple((f"t{i}", "float32", (2,)) for i in range(self.tensors)), 1 << 20)

    def open_transfer(self, world_size, timeout_s):
        self._called("open_transfer")
        return SyncAddress("127.0.0.1", 1, world_size, timeout_s)

    def join_sender(self, where):
        self._called("join_sender")

    def send(self):
        self._called("send")
        return SentWeights({f"t{i}": i for i in range(self.tensors)}, 8 * self.tensors, 1)

    def probe(self, token_ids):
        self._called("probe")
        return [-1.0 for _ in token_ids[1:]]

    def commit(self, step, groups, *objects):
        self._called("commit")
        ids = [t.id for group in objects[:groups] for t in group]
        self.committed = (*self.committed, (step, ids))
        return [Sample("question", "answer", 1.0, "stop")]

    def commits(self):
        return self.committed

    def save(self, folder):
        self._called("save")
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / f"shard-{self.rank}").write_text("state")


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
