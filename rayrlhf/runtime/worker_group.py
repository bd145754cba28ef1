"""N Ray actors of one role behind typed calls, and the only place where the driver waits for them.

A call is `group.start(RolloutRole.pause)`: the method itself, checked by the type checker, never its name in a string.
`gather` waits with a deadline and says which role, rank and call was late or failed. Who decides what follows from a
failure is the supervisor; here a worker can be lost, replaced and admitted again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

import ray
from ray.exceptions import GetTimeoutError, ObjectLostError, RayError, RayTaskError

from rayrlhf.errors import DeadlineExceededError, RayRLHFError, RoleFailedError
from rayrlhf.runtime.cluster import Placement, log_folder
from rayrlhf.runtime.failures import Failure, FailureKind
from rayrlhf.runtime.interruption import raise_if_due

SLICE_S = 0.5
"""How often a wait looks up."""
R = TypeVar("R")
T = TypeVar("T")
P = ParamSpec("P")


@dataclass(frozen=True, slots=True)
class Pending(Generic[T]):
    """A call that is under way on one actor; `ref` may be handed to another role without passing the driver.

    A method with two return values (`ray.method(num_returns=2)`) gives the small one here and the large one as `data`.
    `arguments` are what the call would be made again with; `life` says which actor of the rank it was made on.
    """

    ref: Any
    role: str
    rank: int
    call: str
    data: Any = None
    life: int = 0
    arguments: tuple[Any, ...] = ()
    started: float = 0.0

    def __str__(self) -> str:
        return f"{self.role} {self.rank}, {self.call}"


class WorkerGroup(Generic[R]):
    """The actors of one role by rank. `make` creates the actor of a rank; a rank may have several lives.

    `placement` has their reservations; without one, there is always room.
    """

    def __init__(self, role: str, make: Callable[[int], Any], count: int, placement: Placement | None = None) -> None:
        self.role = role
        self.size = count
        self._make = make
        self._placement = placement
        self._lives = dict.fromkeys(range(count), 0)
        self._actors = {rank: make(rank) for rank in range(count)}
        self._live = set(range(count))

    def __len__(self) -> int:
        return len(self._live)

    @property
    def live(self) -> list[int]:
        """Ranks that take calls."""
        return sorted(self._live)

    def members(self, ranks: Sequence[int]) -> tuple[tuple[int, int], ...]:
        """The ranks with their lives: what a collective group is built for."""
        return tuple((rank, self._lives[rank]) for rank in ranks)

    def start(self, method: Callable[Concatenate[R, P], T], *args: P.args, **kwargs: P.kwargs) -> list[Pending[T]]:
        """Call a method on every live actor with the same arguments."""
        return [self.start_on(rank, method, *args, **kwargs) for rank in self.live]

    def start_on(
        self, rank: int, method: Callable[Concatenate[R, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> Pending[T]:
        """Call a method on one actor."""
        assert not kwargs
        return self._call(rank, method.__name__, args)

    def again(self, pending: Pending[T], *, elsewhere: bool = False) -> Pending[T]:
        """Make a call once more: on its own rank if that takes calls (and not `elsewhere`), else on another one."""
        live = [rank for rank in self.live if not (elsewhere and rank == pending.rank)] or self.live
        rank = pending.rank if pending.rank in live else live[pending.rank % len(live)]
        return self._call(rank, pending.call, pending.arguments)

    def _call(self, rank: int, name: str, args: tuple[Any, ...]) -> Pending[Any]:
        refs = getattr(self._actors[rank], name).remote(*args)
        ref, data = refs if isinstance(refs, list) else (refs, None)
        return Pending(ref, self.role, rank, name, data, self._lives[rank], args, time.monotonic())

    def start_ready(self) -> list[Pending[Any]]:
        """Wait-ables that finish when every actor's constructor has."""
        return [self._ready(rank) for rank in sorted(self._actors)]

    def _ready(self, rank: int) -> Pending[Any]:
        ref = self._actors[rank].__ray_ready__.remote()
        return Pending(ref, self.role, rank, "start", None, self._lives[rank], (), time.monotonic())

    def is_current(self, pending: Pending[Any]) -> bool:
        """Whether the actor that the call was made on is still the rank's."""
        return pending.life == self._lives.get(pending.rank) and pending.rank in self._actors

    def lose(self, rank: int) -> None:
        """End the rank's actor, now; it takes no calls until a replacement is admitted."""
        self._live.discard(rank)
        if (actor := self._actors.pop(rank, None)) is not None:
            ray.kill(actor)

    def replace(self, rank: int) -> Pending[Any]:
        """Create a new actor for a lost or new rank; returns what finishes when its constructor has."""
        self._lives[rank] = self._lives.get(rank, -1) + 1
        self._actors[rank] = self._make(rank)
        return self._ready(rank)

    def has_room(self, rank: int) -> bool:
        """Whether the cluster has granted the rank its resources."""
        return self._placement is None or self._placement.is_granted(self.role, rank)

    def retire(self, rank: int) -> None:
        """End the rank's actor for good and give its resources back; its calls can be made again elsewhere."""
        self.lose(rank)
        if self._placement is not None:
            self._placement.give_back(self.role, rank)

    def admit(self, rank: int) -> None:
        """Let the rank take calls."""
        self._live.add(rank)

    def rebuild(self) -> None:
        """End all actors and create new ones; `start_ready` says when they are up."""
        self.kill()
        for rank in range(self.size):
            self.replace(rank)
            self.admit(rank)

    def kill(self) -> None:
        """End all actors of the group, now."""
        for rank in list(self._actors):
            self.lose(rank)


def create_group(placement: Placement, role: str, cls: type, count: int, *args: Any) -> WorkerGroup[Any]:
    """Start `count` actors `cls(*args, rank)` on their reservations; returns before they are up.

    Threaded roles name their extra threads in `CONCURRENCY`, so that a ping is not stuck behind a long call.
    """
    groups = getattr(cls, "CONCURRENCY", None)
    remote: Any = ray.remote(concurrency_groups=groups)(cls) if groups else ray.remote(cls)

    def make(rank: int) -> Any:
        return remote.options(**placement.options(role, rank)).remote(*args, rank)

    return WorkerGroup(role, make, count, placement)


def gather(pending: Sequence[Pending[T]], timeout_s: float, phase: str) -> list[T]:
    """Wait for calls and return their results in order; the first failure ends the wait.

    Raises:
        DeadlineExceededError: some calls had not answered in `timeout_s` seconds; they are named.
        RoleFailedError: an actor died or its method raised; role, rank and cause are named.

    """
    wait_for(pending, timeout_s, phase)
    return [result(p, phase) for p in pending]


def gather_data(pending: Sequence[Pending[Any]], timeout_s: float, phase: str) -> list[Any]:
    """The large second results of calls, on the driver: for evaluation and tests, not for training."""
    wait_for(pending, timeout_s, phase)
    return [ray.get(p.data, timeout=60) for p in pending]


def wait_for(pending: Sequence[Pending[Any]], timeout_s: float, phase: str) -> None:
    """Wait as `gather` does and return nothing. What is large is a call's `data`, which stays where it is."""
    waiting = list(pending)
    deadline = time.monotonic() + timeout_s
    while waiting:
        done = first_done(waiting, max(0.0, deadline - time.monotonic()))
        if not done:
            late = "; ".join(str(p) for p in waiting)
            failure = _failure(waiting[0], phase, FailureKind.HUNG, f"no answer within {timeout_s:.0f} s")
            raise DeadlineExceededError(
                f"{phase}: no answer within {timeout_s:.0f} s from: {late} (logs: {log_folder()})", failure
            )
        waiting = [p for p in waiting if p not in done]
        for finished in done:
            result(finished, phase)


def first_done(pending: Sequence[Pending[Any]], timeout_s: float) -> list[Pending[Any]]:
    """The calls that have answered or failed, as soon as there is one; empty at the deadline.

    Every wait of the driver comes through here, so an interruption ends any of them.
    """
    raise_if_due()
    if not pending:
        time.sleep(timeout_s)
        return []
    by_ref = {p.ref: p for p in pending}
    ready: list[Any] = []
    left_s, deadline = timeout_s, time.monotonic() + timeout_s
    while not ready and left_s >= 0:
        ready, _ = ray.wait(list(by_ref), num_returns=1, timeout=min(left_s, SLICE_S), fetch_local=False)
        raise_if_due()
        left_s = deadline - time.monotonic()
    if ready and len(by_ref) > 1:  # whatever else is there by now
        ready, _ = ray.wait(list(by_ref), num_returns=len(by_ref), timeout=0, fetch_local=False)
    return [by_ref[ref] for ref in ready]


def failure_of(pending: Pending[Any], phase: str) -> Failure | None:
    """How a finished call failed; None when it did not. Our own errors that a method raised are raised here."""
    try:
        result(pending, phase)
    except RoleFailedError as error:
        if not isinstance(error.failure, Failure):
            raise
        return error.failure
    return None


def answers(pending: Sequence[Pending[T]], timeout_s: float) -> list[tuple[Pending[T], T]]:
    """What those answered that did so within `timeout_s` and without a failure."""
    if not pending:
        return []
    by_ref = {call.ref: call for call in pending}
    ready, _ = ray.wait(list(by_ref), num_returns=len(by_ref), timeout=timeout_s)
    return [(by_ref[ref], value) for ref in ready if (value := _or_none(ref)) is not None]


def collect(refs: Sequence[Any], timeout_s: float) -> list[Any]:
    """Results of plain tasks in order; None for what failed or was late."""
    ready, _ = ray.wait(list(refs), num_returns=len(refs), timeout=timeout_s) if refs else ([], [])
    return [_or_none(ref) if ref in ready else None for ref in refs]


def _or_none(ref: Any) -> Any:
    try:
        return ray.get(ref, timeout=10)
    except ray.exceptions.RayError:
        return None


def result(pending: Pending[T], phase: str) -> T:
    """What a finished call returned.

    Raises:
        RoleFailedError: it failed, see `Failure`. Our own errors that a method raised come as what they are.

    """
    try:
        answer: T = ray.get(pending.ref, timeout=60)
        return answer
    except RayTaskError as error:
        if isinstance(error.cause, RayRLHFError):
            raise type(error.cause)(f"{phase}: {pending}: {error.cause}") from error
        kind = FailureKind.LOST if isinstance(error.cause, ObjectLostError) else FailureKind.RAISED
        cause = str(error.cause).strip() or type(error.cause).__name__
        failure = _failure(pending, phase, kind, f"raised {type(error.cause).__name__}: {cause}")
        if isinstance(error.cause, OSError):
            failure = replace(failure, os_errno=error.cause.errno)
        raise RoleFailedError(str(failure), failure) from error
    except GetTimeoutError:
        failure = _failure(pending, phase, FailureKind.HUNG, "its result did not arrive within 60 s")
        raise RoleFailedError(str(failure), failure) from None
    except ObjectLostError as error:
        failure = _failure(pending, phase, FailureKind.LOST, f"its result was lost: {error}".splitlines()[0])
        raise RoleFailedError(str(failure), failure) from error
    except RayError as error:  # an actor that died or was killed for its memory, and whatever else Ray has to say
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        cause = lines[-1] if "creation task" in lines[0] else lines[0]  # a constructor's error comes last
        failure = _failure(pending, phase, FailureKind.DIED, f"the actor died: {cause}")
        raise RoleFailedError(str(failure), failure) from error


def _failure(pending: Pending[Any], phase: str, kind: FailureKind, cause: str) -> Failure:
    return Failure(kind, pending.role, pending.rank, pending.call, phase, f"{cause} (logs: {log_folder()})")
