"""One weight push, seen from the driver: pause, transfer, prove, resume. Remote calls do not grow with parameters.

    rollout.pause ─▶ learner.send ∥ rollout.receive(version) ─▶ rollout.held ∥ learner.probe ─▶ compare ─▶ resume

Three proofs after every push: the bytes that arrived are those sent (digests); each layer's own kernel computes with
them (deviations, which find a stale packed copy); and learner and workers agree on a probe's log-probabilities.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rayrlhf.errors import RunError, WeightSyncError
from rayrlhf.role_types import HeldWeights, LearnerWorker, RolloutWorker, SentWeights
from rayrlhf.runtime.worker_group import WorkerGroup, gather, wait_for

LAYER_TOLERANCE = {"float32": 1e-4, "bfloat16": 3e-2}
LOGPROB_TOLERANCE_NATS = {"float32": 1e-4, "bfloat16": 0.75}


@dataclass(frozen=True, slots=True)
class SyncProof:
    """What a successful push showed."""

    version: int
    size_bytes: int
    buckets: int
    max_logprob_difference_nats: float
    max_layer_deviation: float


@dataclass(frozen=True, slots=True)
class SyncTolerance:
    """How far apart two right computations may be in this dtype."""

    layer: float
    logprob_nats: float

    @classmethod
    def of(cls, dtype: str, logprob_nats: float | None = None) -> SyncTolerance:
        """The defaults of a dtype, with the log-probability bound overridden where given."""
        return cls(LAYER_TOLERANCE[dtype], logprob_nats or LOGPROB_TOLERANCE_NATS[dtype])


class WeightSync:
    """Carries the learner's weights to every rollout worker."""

    def __init__(
        self,
        learner: WorkerGroup[LearnerWorker],
        rollout: WorkerGroup[RolloutWorker],
        tensor_parallel: int,
        tolerance: SyncTolerance,
        timeout_s: float,
        probe: Sequence[int],
    ) -> None:
        self._learner, self._rollout = learner, rollout
        self._tensor_parallel = tensor_parallel
        self._tolerance = tolerance
        self._timeout_s = timeout_s
        self._probe = tuple(probe)

    def connect(self) -> None:
        """Build the transfer group; again after any change of members."""
        timeout_s = self._timeout_s
        world_size = 1 + len(self._rollout) * self._tensor_parallel
        opened = [self._learner.start_on(0, LearnerWorker.open_transfer, world_size, timeout_s)]
        (where,) = gather(opened, timeout_s, "weight sync: open")
        joins = [
            self._rollout.start_on(i, RolloutWorker.join_transfer, where, 1 + i * self._tensor_parallel)
            for i in range(len(self._rollout))
        ]
        gather([self._learner.start_on(0, LearnerWorker.join_sender, where), *joins], timeout_s, "weight sync: join")
        (self._info,) = gather([self._learner.start_on(0, LearnerWorker.sync_info)], timeout_s, "weight sync: describe")

    def push(self, version: int) -> SyncProof:
        """Bring every rollout worker to `version`. A push that fails ends them: none may answer between two versions.

        Raises:
            WeightSyncError: what arrived is not what was sent, or a worker computes with something else.
            DeadlineExceededError, RoleFailedError: the transfer did not come to an end.

        """
        try:
            return self._push(version)
        except RunError:
            self._rollout.kill()
            raise

    def _push(self, version: int) -> SyncProof:
        phase, timeout_s = f"weight sync of version {version}", self._timeout_s
        gather(self._rollout.start(RolloutWorker.pause), timeout_s, phase)
        receiving = self._rollout.start(RolloutWorker.receive, version, self._info)
        sending = self._learner.start(LearnerWorker.send)
        wait_for([*receiving, *sending], timeout_s, phase)
        sent = gather(sending, timeout_s, phase)[0]
        holding = self._rollout.start(RolloutWorker.held, self._probe)
        probing = self._learner.start(LearnerWorker.probe, self._probe)
        gather(self._rollout.start(RolloutWorker.resume), timeout_s, phase)
        held, wanted = gather(holding, timeout_s, phase), gather(probing, timeout_s, phase)[0]
        return prove(version, sent, held, wanted, self._tolerance)


def prove(
    version: int, sent: SentWeights, held: Sequence[HeldWeights], wanted: Sequence[float], tolerance: SyncTolerance
) -> SyncProof:
    """Compare what every worker holds with what was sent.

    Raises:
        WeightSyncError: names worker, rank, version and tensor or layer of the first mismatch.

    """
    worst_layer = worst_logprob = 0.0
    for worker, weights in enumerate(held):
        who = f"rollout worker {worker}, version {version}"
        if weights.version != version:
            raise WeightSyncError(f"{who}: it says that it has version {weights.version}")
        for rank, (digests, deviations) in enumerate(zip(weights.digests, weights.deviations, strict=True)):
            wrong = [name for name, value in sent.digests.items() if digests.get(name) != value]
            if wrong:
                raise WeightSyncError(
                    f"{who}, rank {rank}: tensor {wrong[0]} is not what was sent ({len(wrong)} wrong)"
                )
            layer = max(deviations, key=lambda name: _or_infinite(deviations[name]), default="")
            worst_layer = max(worst_layer, _or_infinite(deviations.get(layer, 0.0)))
            if worst_layer > tolerance.layer:
                raise WeightSyncError(
                    f"{who}, rank {rank}: layer {layer} does not compute with the weights that were sent "
                    f"(relative deviation {deviations[layer]:.3g}, allowed {tolerance.layer:g}); a packed copy is stale"
                )
        pairs = zip(weights.probe_logprobs, wanted, strict=True)
        difference = max((_or_infinite(abs(a - b)) for a, b in pairs), default=0.0)
        worst_logprob = max(worst_logprob, difference)
        if difference > tolerance.logprob_nats:
            raise WeightSyncError(
                f"{who}: log-probabilities of the probe differ from the learner's by {difference:.3g} nats, "
                f"allowed {tolerance.logprob_nats:g}"
            )
    return SyncProof(version, sent.size_bytes, sent.buckets, worst_logprob, worst_layer)


def _or_infinite(number: float) -> float:
    """NaN compares as false with everything, and would pass for small."""
    return math.inf if math.isnan(number) else number
