"""Every exception that rayrlhf raises on purpose, and the exit code each one means.

Two families: `InputError` (exit code 2: the config, data, checkpoint or arguments are wrong, found before
anything is allocated) and `RunError` (exit code 1: the input was right and the run failed). Each message says
what was found, what was expected and which key, line or file to change.
"""

from __future__ import annotations

from typing import Any


class RayRLHFError(Exception):
    """Base of all errors with a message written for the user."""

    exit_code = 1


class InputError(RayRLHFError):
    """What the user gave is wrong; nothing has been allocated or written."""

    exit_code = 2


class ConfigError(InputError):
    """A configuration key is unknown, has a wrong value, or contradicts another one."""


class DataError(InputError):
    """A data file is missing, malformed (the line is named) or holds nothing usable."""


class ModelError(InputError):
    """A model directory cannot serve the role it was given."""


class CheckpointError(InputError):
    """A checkpoint is incomplete, damaged, or belongs to another run."""


class PlacementError(InputError):
    """The cluster has not got what the placement asks for."""


class ClusterAccessError(InputError):
    """A cluster's dashboard cannot be used: its address, the token, Ray's version, or what was asked of it."""


class ClusterAwayError(ClusterAccessError):
    """Nothing answers where a cluster's dashboard should be; it may be on its way back."""


class FeedbackStoreError(InputError):
    """A feedback store, or a file that belongs to it (keys, tokens), is missing, not one, or newer than the code."""


class RequestRefusedError(InputError):
    """A request that is not taken; `status` is HTTP's, `code` is for programs."""

    def __init__(self, message: str, status: int, code: str, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.retry_after_s = status, code, retry_after_s


class ReleaseError(InputError):
    """A policy cannot be put out: not a model, damaged, or not the service's."""


class RunError(RayRLHFError):
    """The run failed although its input was right."""


class StorageError(OSError):
    """A remote store (a URL) has failed again and again. As on a full disk, where it happens says what it means:
    a role is put right by the supervisor, a save is tried again later, and elsewhere the run ends with exit code 1.
    """

    def __str__(self) -> str:
        return f"{self.filename}: {self.strerror}"


class RoleFailedError(RunError):
    """A Ray actor of a role died, raised or hung; `failure` says which and how (`rayrlhf.runtime.failures`)."""

    def __init__(self, message: str, failure: Any = None) -> None:
        super().__init__(message)
        self.failure = failure


class DeadlineExceededError(RoleFailedError):
    """A wait on a remote call ran past its deadline; `failure` is of the first that is late."""


class RecoveryError(RunError):
    """What failed was not recovered: its budget is spent, or trying again would not help."""


class WeightSyncError(RunError):
    """A weight push failed, or what arrived is not what was sent."""


class RewardError(RunError):
    """Too many trajectories could not be scored."""


class SandboxError(RunError):
    """A model's code cannot be run, because its process cannot be protected or did not start."""


class ScorerLostError(RunError):
    """The process that scores has died, or scoring in it does not end; what it was given may be scored by another."""


class NumericalError(RunError):
    """A loss, gradient, reward or log-probability is NaN or infinite."""


class InterruptedRunError(RunError):
    """The run was asked to end; the exit code is the shell's for the signal (143 for SIGTERM, 130 for Ctrl-C)."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code
