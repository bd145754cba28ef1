"""Deterministic roles without engines, real Ray actors all the same; they import little, so they start fast.

The rollout role is the real one around a fake engine: journalling, requeueing and replay are those of a run. The
learner's state is a hash of everything it has learned, so two runs that learned the same in the same order are equal.
"""

import asyncio
import hashlib
import os
import time
from typing import ClassVar

import ray

from rayrlhf.data.durable import as_path, local_copy, local_folder, replaced_folder
from rayrlhf.data.journal import Journal
from rayrlhf.role_types import HeldWeights, Sample, SavedFile, SentWeights, SyncAddress, SyncInfo
from rayrlhf.roles.rollout import RolloutRole
from rayrlhf.runtime import processes
from rayrlhf.types import Completion, Reward, Rewards, TokenScores, VersionSpan


class Faulty:
    """Counts calls; `fault` = (method, what, from which call on) misbehaves: die, hang, raise, disk, stale or nan."""

    def __init__(self, rank, fault=None, tensors=3, work_s=0.0):
        processes.adopt()
        self.rank, self.fault, self.tensors, self.work_s = rank, fault or ("", "", 1), tensors, work_s
        self.calls = []

    def called(self, method):
        self.calls.append(method)
        name, what, first = self.fault
        if name == method and self.calls.count(method) >= first:
            match what:
                case "die":
                    os._exit(1)
                case "hang":
                    time.sleep(3600)
                case "raise":
                    raise ValueError("broken on purpose")
                case "disk":
                    raise OSError(28, "No space left on device")


class FakeRole(Faulty):
    CONCURRENCY: ClassVar = {"health": 1, "io": 1}

    def _called(self, method):
        self.called(method)
        time.sleep(self.work_s)

    @ray.method(concurrency_group="health")
    def vitals(self):
        return processes.vitals()

    def seen(self):
        return self.calls


class FakeEngine:
    """Writes tokens that are a function of prompt, seed and nothing else."""

    version = -1

    def __init__(self, faulty):
        self.faulty = faulty

    async def complete(self, prompt, sampling, seed):
        self.faulty.called("generate")
        if prompt.id.startswith("poison"):
            raise ValueError("this prompt breaks the engine")
        await asyncio.sleep(self.faulty.work_s)
        tokens = tuple(4 + seed % 7 + i for i in range(2 + seed % 3))
        return Completion(tokens, (-1.0,) * len(tokens), "stop", (VersionSpan(0, len(tokens), self.version),))

    async def check(self):
        pass


class FakeRollout(RolloutRole):
    def __init__(self, journal, rank, *faulty):
        from rayrlhf.engines.generation_spec import GenerationSpec, Sampling
        from rayrlhf.roles.rollout import RolloutSetup

        self.faulty = Faulty(rank, *faulty)
        super().__init__(
            RolloutSetup(GenerationSpec("none", "float32", 64, 8), Sampling(8, 1.0, ()), 1, 1, journal), rank
        )

    def _start_engine(self, spec):
        return FakeEngine(self.faulty)

    async def seen(self):
        return self.faulty.calls

    async def pause(self):
        self.faulty.called("pause")
        self._proven.clear()

    async def resume(self):
        self.faulty.called("resume")

    async def confirm(self):
        self.faulty.called("confirm")
        self._proven.set()

    async def join_transfer(self, where, first_rank):
        self.faulty.called("join_transfer")

    async def receive(self, version, info):
        await asyncio.sleep(self.faulty.work_s)
        self.faulty.called("receive")
        self._engine.version = version

    async def abort_transfer(self):
        self.faulty.called("abort_transfer")

    async def held(self):
        self.faulty.called("held")
        digests = {f"t{i}": i for i in range(self.faulty.tensors)}
        version = self._engine.version - (self.faulty.fault[:2] == ("held", "stale"))
        return HeldWeights(version, (digests,), ({},))

    async def probe(self, token_ids):
        self.faulty.called("probe")
        return [-1.0 for _ in token_ids[1:]]


class FakeReward(FakeRole):
    @ray.method(num_returns=2)
    def score(self, *groups):
        self._called("score")
        rows = [t for group in groups for t in group]
        return len(rows), Rewards({t.id: Reward(float(len(t.completion.token_ids)), {}, "ok") for t in rows})

    def last_failure(self):
        return "ValueError: the judge is asleep"


class FakeReference(FakeRole):
    @ray.method(num_returns=2)
    def logprobs(self, *groups):
        self._called("logprobs")
        return 0, TokenScores("reference", {})


class FakeTrainer(FakeRole):
    """What it has learned is its state: a hash over the ids and tokens of every step."""

    state = "initial"
    learned = ()
    states: ClassVar = {}

    def address(self):
        return "127.0.0.1", 1

    def start(self, rendezvous, checkpoint):
        if checkpoint:
            with local_copy(as_path(checkpoint)) as saved:
                self.state = (saved / f"shard-{self.rank}").read_text()

    def learn(self, request, groups, *objects):
        self._called("learn")
        rows = sorted((t.id, t.completion.token_ids) for group in objects[:groups] for t in group)
        if self.fault[:2] == ("learn", "nan") and self.calls.count("learn") >= self.fault[2]:
            self.bad = (rows[0][0],)
            return {"reward/failed_share": 0.0, "policy/skipped_updates": 1.0, "kl/sequence_nats": float("nan")}
        rewards = sorted(
            (id_, r.value) for o in objects[groups:] if isinstance(o, Rewards) for id_, r in o.by_id.items()
        )
        assert [id_ for id_, _ in rows] == [id_ for id_, _ in rewards]
        self.state = hashlib.sha256(f"{self.state}{request.step}{rows}{rewards}".encode()).hexdigest()
        self.learned = (*self.learned, (request.step + 1, [id_ for id_, _ in rows]))
        self.states = {**self.states, request.step + 1: self.state}
        return {
            "reward/failed_share": self.failed_share,
            "kl/sequence_nats": 12.0,
            "reward/mean": 0.0,
            "reward/std": 0.0,
        }

    failed_share = 0.0

    def bad_trajectories(self):
        return self.bad

    def snapshot(self):
        self._called("snapshot")
        self.copy = self.state

    @ray.method(concurrency_group="io")
    def write_snapshot(self, folder):
        with local_folder(as_path(folder)) as local:
            local.mkdir(parents=True, exist_ok=True)
            self._called("write_snapshot")
            file = local / f"shard-{self.rank}"
            file.write_text(self.copy)
        return [SavedFile(file.name, len(self.copy), hashlib.sha256(self.copy.encode()).hexdigest())]

    def by_step(self):
        return self.states

    def history(self):
        return self.state, self.learned


class FakeCritic(FakeTrainer):
    def learn(self, request, groups, *objects):
        super().learn(request, groups, *objects)
        return {}

    @ray.method(num_returns=2)
    def values(self, *groups):
        self._called("values")
        return 0, TokenScores("value", {})


class FakeLearner(FakeTrainer):
    def __init__(self, journal, *args):
        super().__init__(*args)
        self.journal = Journal(as_path(journal))

    @ray.method(num_returns=2)
    def logprobs(self, *groups):
        self._called("logprobs")
        return 0, TokenScores("policy", {})

    def fail_rewards(self, share):
        self.failed_share = share

    def sync_info(self, timeout_s):
        self._called("sync_info")
        return SyncInfo(tuple((f"t{i}", "float32", (2,)) for i in range(self.tensors)), 1 << 20, timeout_s)

    def open_transfer(self, world_size, timeout_s):
        self._called("open_transfer")
        return SyncAddress("127.0.0.1", 1, world_size, timeout_s)

    def join_sender(self, where):
        self._called("join_sender")

    def send(self, timeout_s):
        self._called("send")
        return SentWeights({f"t{i}": i for i in range(self.tensors)}, 8 * self.tensors, 1)

    def close_transfer(self):
        self._called("close_transfer")

    def probe(self, token_ids):
        self._called("probe")
        return [-1.0 for _ in token_ids[1:]]

    @ray.method(num_returns=2)
    def journalled_rewards(self, step):
        rewards = self.journal.rewards(step)
        return len(rewards.by_id), rewards

    def commit(self, step, groups, *objects):
        self._called("commit")
        rows = [t for group in objects[:groups] for t in group]
        rewards = {id_: r for o in objects[groups:] if isinstance(o, Rewards) for id_, r in o.by_id.items()}
        self.journal.commit(step, rows, Rewards(rewards), {t.id: "answer" for t in rows})
        return [Sample("question", "answer", 1.0, "stop")]

    def export(self, folder):
        self._called("export")
        if self.rank == 0:
            with replaced_folder(as_path(folder), last="state") as new:
                (new / "state").write_text(self.state)
