"""What failed, and what is done about it. Knows roles by name only; no Ray, no engine.

    a call fails ──▶ Failure(kind, role, rank, call, cause) ──▶ FailurePolicy ──▶ restart the worker | rebuild | stop

Workers that only compute (rollout, reward, reference) are replaced one by one. Ranks that train hold state together, so
a learner or critic rank takes its group with it. Budgets are by role and count failures without progress in between.
"""

from __future__ import annotations

import errno
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

from rayrlhf.errors import RecoveryError

TRAINING_ROLES = frozenset({"learner", "critic"})
FULL_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG})


class FailureKind(Enum):
    """How a call failed; the value completes «the worker …»."""

    DIED = "died"
    HUNG = "did not answer"
    RAISED = "raised"
    LOST = "lost its data"


class Decision(Enum):
    """What the supervisor does."""

    RESTART = "restart"
    REBUILD = "rebuild"
    STOP = "stop"


@dataclass(frozen=True, slots=True)
class Failure:
    """One failed call: who, where, and why, in words for people."""

    kind: FailureKind
    role: str
    rank: int
    call: str
    phase: str
    cause: str
    os_errno: int | None = None

    def __str__(self) -> str:
        return f"{self.phase}: {self.role} {self.rank}, {self.call}: {self.cause}"

    @property
    def trains(self) -> bool:
        """Whether the rank's group has to be rebuilt as a whole."""
        return self.role in TRAINING_ROLES


@dataclass(slots=True)
class FailurePolicy:
    """Budgets: `max_failures` of one role between two newly finished steps; then the run stops."""

    max_failures: int
    backoff_s: float
    max_backoff_s: float = 60.0
    sleep: Callable[[float], None] = time.sleep
    _since_progress: Counter[str] = field(default_factory=Counter)

    def decide(self, failure: Failure) -> Decision:
        """Count the failure and say what to do."""
        if failure.os_errno in FULL_DISK:
            return Decision.STOP
        self._since_progress[failure.role] += 1
        if self._since_progress[failure.role] > self.max_failures:
            return Decision.STOP
        return Decision.REBUILD if failure.trains else Decision.RESTART

    def back_off(self, role: str) -> None:
        """Wait before the next attempt: not at all the first time, then longer and longer."""
        repeats = self._since_progress[role] - 1
        if repeats > 0:
            self.sleep(min(self.backoff_s * 2 ** (repeats - 1), self.max_backoff_s))

    def progressed(self) -> None:
        """A step was finished that had not been before."""
        self._since_progress.clear()

    def error(self, failure: Failure) -> RecoveryError:
        """Why the run stops."""
        if failure.os_errno in FULL_DISK:
            return RecoveryError(f"{failure}. Make room, then go on with --resume auto: nothing is lost")
        count = self._since_progress[failure.role]
        return RecoveryError(
            f"{failure.role} failed {count} times without a finished step in between, more than "
            f"recovery.max_failures = {self.max_failures}. The last failure: {failure}"
        )
