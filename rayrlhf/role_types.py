"""The roles as the loop sees them: typed calls on Ray actors, real or fake. Knows no engine and no Ray.

Groups of trajectories and scores pass between roles as Ray objects; the driver sees `GroupInfo` and metrics.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from rayrlhf.types import Prompt, Rewards, TokenScores, Trajectory


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One prompt's use in a step: K samples with their own seeds. `look`: some may be in the journal already."""

    step: int
    group_id: str
    prompt: Prompt
    seeds: tuple[int, ...]
    look: bool = False


@dataclass(frozen=True, slots=True)
class GroupInfo:
    """What the driver learns about a finished group; its size does not grow with tokens."""

    group_id: str
    trajectory_ids: tuple[str, ...]
    prompt_tokens: int
    response_tokens: tuple[int, ...]
    oldest_version: int


@dataclass(frozen=True, slots=True)
class LearnRequest:
    """What a learner or critic rank needs beside the objects: the step's number and the KL coefficient."""

    step: int
    kl_coefficient: float


@dataclass(frozen=True, slots=True)
class SyncInfo:
    """What the learner will push: one entry a tensor, as (name, dtype, shape)."""

    specs: tuple[tuple[str, str, tuple[int, ...]], ...]
    bucket_bytes: int
    timeout_s: float


@dataclass(frozen=True, slots=True)
class SyncAddress:
    """Where the sender listens for `world_size` ranks."""

    address: str
    port: int
    world_size: int
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Rendezvous:
    """Where the `world_size` ranks of a training group meet, and how long one waits for another."""

    address: str
    port: int
    world_size: int
    timeout_s: float


@dataclass(frozen=True, slots=True)
class SavedFile:
    """A file of a checkpoint, as it was written."""

    name: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Vitals:
    """A role's process: the answer says that it is alive, and its memory (its engine's processes included)."""

    node: str
    pid: int
    resident_mib: float


@dataclass(frozen=True, slots=True)
class SentWeights:
    """What one push sent: digests by tensor."""

    digests: dict[str, int]
    size_bytes: int
    buckets: int


@dataclass(frozen=True, slots=True)
class HeldWeights:
    """What one rollout worker has after a push: for each of its ranks, digests received and layers' deviations."""

    version: int
    digests: tuple[dict[str, int], ...]
    deviations: tuple[dict[str, float], ...]


@dataclass(frozen=True, slots=True)
class Sample:
    """A prompt and an answer as text, for people."""

    prompt: str
    response: str
    reward: float | None
    finish_reason: str


class Worker(Protocol):
    """What every role answers to."""

    def vitals(self) -> Vitals:
        """At once, whatever else it does; raises when its engine is dead."""
        ...


class RolloutWorker(Worker, Protocol):
    """Generates."""

    def generate(self, request: GenerationRequest) -> tuple[GroupInfo, list[Trajectory]]:
        """All samples of one prompt, journalled; two Ray objects."""
        ...

    def pause(self) -> None:
        """Freeze running requests."""
        ...

    def resume(self) -> None:
        """Let them go on. Nothing that ends from now on is shown to anyone until `confirm`."""
        ...

    def confirm(self) -> None:
        """The weights are proven."""
        ...

    def join_transfer(self, where: SyncAddress, first_rank: int) -> None:
        """Meet the sender."""
        ...

    def receive(self, version: int, info: SyncInfo) -> None:
        """Take one push."""
        ...

    def abort_transfer(self) -> None:
        """Let go of a push that failed; stays paused."""
        ...

    def held(self) -> HeldWeights:
        """Evidence of what the worker computes with; it may be paused."""
        ...

    def probe(self, token_ids: tuple[int, ...]) -> list[float]:
        """log p(token t | < t) for t = 1, 2, …"""
        ...


class RewardWorker(Worker, Protocol):
    """Scores answers."""

    def score(self, *groups: list[Trajectory]) -> tuple[int, Rewards]:
        """How many, and the rewards of all trajectories in the groups; two Ray objects."""
        ...

    def last_failure(self) -> str:
        """Why the last reward that failed did so; empty while none has."""
        ...


class ReferenceWorker(Worker, Protocol):
    """The frozen policy."""

    def logprobs(self, *groups: list[Trajectory]) -> tuple[int, TokenScores]:
        """How many, and the log-probabilities of the responses; two Ray objects."""
        ...


class Trainer(Worker, Protocol):
    """What learner and critic ranks share."""

    def address(self) -> tuple[str, int]:
        """This node's address and a free port on it."""
        ...

    def start(self, rendezvous: Rendezvous, checkpoint: str | None) -> None:
        """Meet the other ranks and build the engine, from a checkpoint's folder where one is given."""
        ...

    def learn(self, request: LearnRequest, groups: int, *objects: Any) -> dict[str, float]:
        """Update from the first `groups` objects (trajectories) and the others (scores)."""
        ...

    def bad_trajectories(self) -> tuple[str, ...]:
        """Ids of the last step that was not applied because its numbers were not finite."""
        ...

    def snapshot(self) -> None:
        """All ranks: copy the training state to host memory."""
        ...

    def write_snapshot(self, folder: str) -> list[SavedFile]:
        """Write this rank's shard of the copy, beside whatever else the rank does."""
        ...


class CriticWorker(Trainer, Protocol):
    """Learns values."""

    def values(self, *groups: list[Trajectory]) -> tuple[int, TokenScores]:
        """This rank's share of the values before the update; two Ray objects."""
        ...


class LearnerWorker(Trainer, Protocol):
    """Improves the policy."""

    def logprobs(self, *groups: list[Trajectory]) -> tuple[int, TokenScores]:
        """This rank's share of the policy's own log-probabilities before the update; two Ray objects."""
        ...

    def sync_info(self, timeout_s: float) -> SyncInfo:
        """What a push will send, within how long."""
        ...

    def open_transfer(self, world_size: int, timeout_s: float) -> SyncAddress:
        """Rank 0: listen for the rollout workers."""
        ...

    def join_sender(self, where: SyncAddress) -> None:
        """Rank 0: meet them."""
        ...

    def send(self, timeout_s: float) -> SentWeights:
        """All ranks: push the weights; rank 0 reports."""
        ...

    def close_transfer(self) -> None:
        """Let go of a push that failed."""
        ...

    def probe(self, token_ids: tuple[int, ...]) -> list[float]:
        """log p(token t | < t) for t = 1, 2, …"""
        ...

    def journalled_rewards(self, step: int) -> tuple[int, Rewards]:
        """Rank 0: how many, and the rewards of a committed step; two Ray objects."""
        ...

    def commit(self, step: int, groups: int, *objects: Any) -> list[Sample]:
        """Rank 0: write the step's journal file; returns a few samples."""
        ...

    def export(self, folder: str) -> None:
        """Write a Hugging Face directory."""
        ...
