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
from ray.exceptions import RayActorError, RayTaskError

from rayrlhf.errors import DeadlineExceededError, RayRLHFError, RoleFailedError

R = TypeVar("R")
T = TypeVar("T")
P = ParamSpec("P")


@dataclass(frozen=True, slots=True)
class Pending(Generic[T]):
    """A call that is under way on one actor; `ref` may be handed to another role without passing the driver."""

    ref: Any
    role: str
    rank: int
    call: str

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
        ref = getattr(self._actors[rank], name).remote(*args, **kwargs)
        return Pending(ref, self.role, rank, name)

    def kill(self) -> None:
        """End all actors of the group, now."""
        for actor in self._actors:
            ray.kill(actor)


def gather(pending: Sequence[Pending[T]], timeout_s: float, phase: str) -> list[T]:
    """Wait for calls and return their results in order; the first failure ends the wait.

    Raises:
        DeadlineExceededError: some calls had not answered in `timeout_s` seconds; they are named.
        RoleFailedError: an actor died or its method raised; role, rank and cause are named.

    """
    by_ref = {p.ref: p for p in pending}
    waiting = list(by_ref)
    deadline = time.monotonic() + timeout_s
    while waiting:
        ready, waiting = ray.wait(waiting, num_returns=1, timeout=max(0.0, deadline - time.monotonic()))
        if not ready:
            late = "; ".join(str(by_ref[ref]) for ref in waiting)
            raise DeadlineExceededError(f"{phase}: no answer within {timeout_s:.0f} s from: {late}")
        for ref in ready:
            _result(ref, by_ref[ref], phase)
    return [_result(p.ref, p, phase) for p in pending]


def _result(ref: Any, pending: Pending[Any], phase: str) -> Any:
    try:
        return ray.get(ref, timeout=60)
    except RayTaskError as error:
        if isinstance(error.cause, RayRLHFError):
            raise type(error.cause)(f"{phase}: {pending}: {error.cause}") from error
        cause = str(error.cause).strip() or type(error.cause).__name__
        raise RoleFailedError(f"{phase}: {pending} raised {type(error.cause).__name__}: {cause}") from error
    except RayActorError as error:
        raise RoleFailedError(f"{phase}: {pending}: the actor died: {str(error).splitlines()[0]}") from error
