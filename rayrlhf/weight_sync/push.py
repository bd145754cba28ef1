"""One weight push, seen from the driver: pause, transfer, prove, resume. Remote calls do not grow with parameters.

    rollout.pause ─▶ learner.send ∥ rollout.receive(version) ─▶ held: compare ─▶ resume ─▶ probe: compare ─▶ confirm

The probe needs a running engine; what else it finishes before `confirm` is kept back, so that nothing unproven is ever
journalled. A push that fails half-way is aborted everywhere: what answers to that is healthy and waits, paused, for the
next whole push; what does not answer is named with the bucket it stopped at. Nobody generates between two versions.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from rayrlhf.errors import RoleFailedError, RunError, WeightSyncError
from rayrlhf.role_types import LearnerWorker, RolloutWorker, SyncAddress, SyncInfo
from rayrlhf.runtime.failures import Failure, FailureKind
from rayrlhf.runtime.worker_group import Pending, WorkerGroup, first_done, gather, result, wait_for
from rayrlhf.weight_sync.proof import SyncProof, SyncTolerance, prove_logprobs, prove_weights, weights_digest
from rayrlhf.weight_sync.transfer_group import read_marks

T = TypeVar("T")
ABORT_S = 8.0
"""How long a healthy end of a transfer may take to let go of it."""
CONNECT_S = 30.0
"""How long the ends of a new transfer group may take to meet."""


class SyncFailedError(RunError):
    """A push did not come to its end; `lost` are the rollout workers that are gone, by rank, each with the reason."""

    def __init__(self, message: str, lost: Mapping[int, str]) -> None:
        super().__init__(message)
        self.lost = lost


@dataclass(frozen=True, slots=True)
class _Connection:
    """A transfer group and the actors it was built for."""

    members: tuple[tuple[int, int], ...]
    where: SyncAddress


class WeightSync:
    """Carries the learner's weights to rollout workers; builds the transfer group anew when its members change."""

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
        self._connection: _Connection | None = None
        self._info: SyncInfo | None = None
        self._running = False

    def push(self, version: int, ranks: Sequence[int]) -> SyncProof:
        """Bring these rollout workers to the learner's weights, called `version`, and prove that they have them.

        Raises:
            WeightSyncError: what arrived is not what was sent, or a worker computes with something else.
            SyncFailedError: the transfer did not come to an end. Workers that are not `lost` wait for the next push.
            RoleFailedError: a learner rank is gone.

        """
        phase = f"weight sync of version {version}"
        try:
            self._running = False
            self._ask(ranks, RolloutWorker.pause, phase)
            return self._push(version, ranks, self._connect(ranks), phase)
        except WeightSyncError:
            self._rollout.kill()  # nobody may answer with weights that are not what was sent
            raise
        except RoleFailedError as error:
            raise self._abort(ranks, phase, error) from error

    def _connect(self, ranks: Sequence[int]) -> SyncInfo:
        """Build the transfer group, unless the one that stands has these members."""
        members = (*self._learner.members([0]), *self._rollout.members(ranks))
        if self._connection and self._connection.members == members and self._info:
            return self._info
        self._connection = None
        phase, world_size = "weight sync: connect", 1 + len(ranks) * self._tensor_parallel
        timeout_s = min(CONNECT_S, self._timeout_s)
        opened = self._learner.start_on(0, LearnerWorker.open_transfer, world_size, timeout_s)
        (where,) = gather([opened], timeout_s, phase)
        joins: list[Pending[Any]] = [self._learner.start_on(0, LearnerWorker.join_sender, where)]
        for place, rank in enumerate(ranks):
            first = 1 + place * self._tensor_parallel
            joins.append(self._rollout.start_on(rank, RolloutWorker.join_transfer, where, first))
        described = self._learner.start_on(0, LearnerWorker.sync_info, self._timeout_s)
        gather(joins, timeout_s + ABORT_S, phase)
        (self._info,) = gather([described], timeout_s, phase)
        self._connection = _Connection(members, where)
        return self._info

    def _push(self, version: int, ranks: Sequence[int], info: SyncInfo, phase: str) -> SyncProof:
        timeout_s = self._timeout_s
        receiving = [self._rollout.start_on(rank, RolloutWorker.receive, version, info) for rank in ranks]
        sending = self._learner.start(LearnerWorker.send, timeout_s)
        wait_for([*receiving, *sending], timeout_s, phase)
        sent = gather(sending, timeout_s, phase)[0]
        held = self._ask(ranks, RolloutWorker.held, phase)
        deviation = prove_weights(version, sent, held, self._tolerance)
        self._ask(ranks, RolloutWorker.resume, phase)
        self._running = True
        probing = self._learner.start(LearnerWorker.probe, self._probe)
        found = self._ask(ranks, RolloutWorker.probe, phase, self._probe)
        gap_nats = prove_logprobs(version, found, gather(probing, timeout_s, phase)[0], self._tolerance)
        self._ask(ranks, RolloutWorker.confirm, phase)
        return SyncProof(version, sent.size_bytes, sent.buckets, gap_nats, deviation, weights_digest(sent.digests))

    def _ask(self, ranks: Sequence[int], method: Callable[..., T], phase: str, *args: Any) -> dict[int, T]:
        """What each of these workers answers, by rank."""
        calls = [self._rollout.start_on(rank, method, *args) for rank in ranks]
        return dict(zip(ranks, gather(calls, self._timeout_s, phase), strict=True))

    def _abort(self, ranks: Sequence[int], phase: str, error: RoleFailedError) -> RunError:
        """Let every end go; what does not is lost. Returns what to raise."""
        marks = read_marks(self._connection.where) if self._connection else {}
        grace_s = ABORT_S if self._connection else CONNECT_S + ABORT_S
        self._connection = None
        calls: list[Pending[Any]] = [self._rollout.start_on(rank, RolloutWorker.abort_transfer) for rank in ranks]
        if self._running:
            calls += [self._rollout.start_on(rank, RolloutWorker.pause) for rank in ranks]
        calls += self._learner.start(LearnerWorker.close_transfer)
        failed = _failures(calls, grace_s, phase)
        learner = next((found for call, found in failed if call.role == self._learner.role), None)
        if learner is not None:
            return learner
        places = {rank: 1 + place * self._tensor_parallel for place, rank in enumerate(ranks)}

        def named(rank: int, cause: object) -> str:
            at = [marks[r] for r in range(places[rank], places[rank] + self._tensor_parallel) if r in marks]
            return f"{phase}: rollout {rank} failed at {min(at, default='no bucket')}: {cause}"

        lost = {call.rank: named(call.rank, found) for call, found in failed}
        failure = error.failure
        if not lost and failure.kind is not FailureKind.HUNG and failure.role == self._rollout.role:
            return SyncFailedError(named(failure.rank, failure.cause), lost)
        return SyncFailedError("; ".join(lost.values()) or str(error), lost)


def _failures(calls: Sequence[Pending[Any]], grace_s: float, phase: str) -> list[tuple[Pending[Any], RoleFailedError]]:
    """Calls that fail or have not answered after `grace_s`, each with its error."""
    failed, waiting, deadline = [], list(calls), time.monotonic() + grace_s
    while waiting and (done := first_done(waiting, max(0.0, deadline - time.monotonic()))):
        waiting = [call for call in waiting if call not in done]
        for call in done:
            try:
                result(call, phase)
            except RoleFailedError as error:
                failed.append((call, error))
    for call in waiting:
        cause = f"no answer within {grace_s:.0f} s of the abort"
        failure = Failure(FailureKind.HUNG, call.role, call.rank, call.call, phase, cause)
        failed.append((call, RoleFailedError(str(failure), failure)))
    return failed
