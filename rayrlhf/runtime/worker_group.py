"""N Ray actors of one role behind typed calls, and the only place where the driver waits for them.

A call is `group.start(RolloutRole.pause)`: the method itself, checked by the type checker, never its name in a string.
`gather` waits with a deadline and says which role, rank and call was late or failed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError

from rayrlhf.errors import DeadlineExceededError, RayRLHFError, RoleFailedError
from rayrlhf.runtime.cluster import Placement, log_folder

R = TypeVar("R")
T = TypeVar("T")
P = ParamSpec("P")


@dataclass(frozen=True, slots=True)
class Pending(Generic[T]):
    """A call that is under way on one actor; `ref` may be handed to another role without passing the driver.

    A method with two return values (`ray.method(num_returns=2)`) gives the small one here and the large one as `data`.
    """

    ref: Any
    role: str
    rank: int
    call: str
    data: Any = None

    def __str__(self) -> str:
        return f"{self.role} {self.rank}, {self.call}"


class WorkerGroup(Generic[R]):
    """The actors of one role, in the order of their ranks."""

    def __init__(self, role: str, actors: Sequence[Any]) -> None:
        self.role = role
        self._actors = list(actors)

    def __len__(self) -> int:
        return len(self._actors)

    def start(self, method: Callable[Concatenate[R, P], T], *args: P.args, **kwargs: P.kwargs) -> list[Pending[T]]:
        """Call a method on every actor with the same arguments."""
        return [self.start_on(rank, method, *args, **kwargs) for rank in range(len(self))]

    def start_on(
        self, rank: int, method: Callable[Concatenate[R, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> Pending[T]:
        """Call a method on one actor."""
        name = method.__name__
        refs = getattr(self._actors[rank], name).remote(*args, **kwargs)
        ref, data = refs if isinstance(refs, list) else (refs, None)
        return Pending(ref, self.role, rank, name, data)

    def start_ready(self) -> list[Pending[Any]]:
        """Wait-ables that finish when every actor's constructor has."""
        return [
            Pending(actor.__ray_ready__.remote(), self.role, rank, "start") for rank, actor in enumerate(self._actors)
        ]

    def kill(self) -> None:
        """End all actors of the group, now."""
        for actor in self._actors:
            ray.kill(actor)


def create_group(placement: Placement, role: str, cls: type, count: int, *args: Any) -> WorkerGroup[Any]:
    """Start `count` actors `cls(*args, rank)` on their reservations; returns before they are up."""
    actors = [ray.remote(cls).options(**placement.options(role, rank)).remote(*args, rank) for rank in range(count)]
    return WorkerGroup(role, actors)


def gather(pending: Sequence[Pending[T]], timeout_s: float, phase: str) -> list[T]:
    """Wait for calls and return their results in order; the first failure ends the wait.

    Raises:
        DeadlineExceededError: some calls had not answered in `timeout_s` seconds; they are named.
        RoleFailedError: an actor died or its method raised; role, rank and cause are named.

    """
    wait_for(pending, timeout_s, phase)
    return [_result(p, phase) for p in pending]


def gather_data(pending: Sequence[Pending[Any]], timeout_s: float, phase: str) -> list[Any]:
    """The large second results of calls, on the driver: for evaluation and tests, not for training."""
    wait_for(pending, timeout_s, phase)
    return [ray.get(p.data, timeout=60) for p in pending]


def wait_for(pending: Sequence[Pending[Any]], timeout_s: float, phase: str) -> None:
    """Wait as `gather` does and return nothing. What is large is a call's `data`, which stays where it is."""
    by_ref = {p.ref: p for p in pending}
    waiting = list(by_ref)
    deadline = time.monotonic() + timeout_s
    while waiting:
        left = max(0.0, deadline - time.monotonic())
        ready, waiting = ray.wait(waiting, num_returns=1, timeout=left, fetch_local=False)
        if not ready:
            late = "; ".join(str(by_ref[ref]) for ref in waiting)
            raise DeadlineExceededError(
                f"{phase}: no answer within {timeout_s:.0f} s from: {late} (logs: {log_folder()})"
            )
        for ref in ready:
            _result(by_ref[ref], phase)


def _result(pending: Pending[Any], phase: str) -> Any:
    try:
        return ray.get(pending.ref, timeout=60)
    except RayTaskError as error:
        if isinstance(error.cause, RayRLHFError):
            raise type(error.cause)(f"{phase}: {pending}: {error.cause}") from error
        cause = str(error.cause).strip() or type(error.cause).__name__
        raise RoleFailedError(
            f"{phase}: {pending} raised {type(error.cause).__name__}: {cause} (logs: {log_folder()})"
        ) from error
    except GetTimeoutError:
        raise DeadlineExceededError(f"{phase}: {pending}: its result did not arrive within 60 s") from None
    except RayActorError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        cause = lines[-1] if "creation task" in lines[0] else lines[0]  # a constructor's error comes last
        raise RoleFailedError(f"{phase}: {pending}: the actor died: {cause} (logs: {log_folder()})") from error
