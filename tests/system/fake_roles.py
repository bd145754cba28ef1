"""Deterministic roles without engines, real Ray actors all the same; they import little, so they start fast."""

import os
import time
from pathlib import Path

import ray

from rayrlhf.role_types import GroupInfo, HeldWeights, Sample, SentWeights, SyncAddress, SyncInfo
from rayrlhf.types import Completion, Reward, Rewards, TokenScores, Trajectory, VersionSpan


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
