"""Saves that do not hold the loop: copy to host memory, then write while the run goes on, then the manifest.

begin ──▶ all ranks copy (the loop waits) ──▶ all ranks write (it does not) ──▶ poll: all written ──▶ manifest
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rayrlhf.errors import RecoveryError
from rayrlhf.loop.checkpoint import CheckpointStore
from rayrlhf.loop.progress import Progress
from rayrlhf.loop.roles import Roles, checkpoint_part
from rayrlhf.observability.events import EventLog
from rayrlhf.role_types import SavedFile, Trainer
from rayrlhf.runtime.failures import FULL_DISK, Failure, FailureKind
from rayrlhf.runtime.worker_group import Pending, failure_of, first_done, gather

MAX_FAILED_SAVES = 3


@dataclass(frozen=True, slots=True)
class _Save:
    folder: Path
    progress: Progress
    in_flight: tuple[str, ...]
    writing: list[tuple[str, Pending[list[SavedFile]]]]
    started: float


class CheckpointSaver:
    """At most one save at a time."""

    def __init__(self, roles: Roles, store: CheckpointStore, events: EventLog) -> None:
        self._roles, self._store, self._events = roles, store, events
        self._save: _Save | None = None
        self._failed = 0

    @property
    def busy(self) -> bool:
        """Whether a save is being written."""
        return self._save is not None

    def copies(self) -> list[Pending[None]]:
        """Every training rank copies its state; wait for these, then `write`."""
        return [call for group in self._roles.training for call in group.start(Trainer.snapshot)]

    def write(self, progress: Progress, in_flight: Sequence[str]) -> None:
        """Let the ranks write what they copied."""
        save = _Save(self._store.folder(progress.step), progress, tuple(in_flight), [], time.monotonic())
        with self._giving_up(save):
            self._store.begin(progress.step)
            for group in self._roles.training:
                part = checkpoint_part(group.role)
                calls = group.start(Trainer.write_snapshot, str(save.folder / part))
                save.writing.extend((part, call) for call in calls)
            self._save = save

    def poll(self, timeout_s: float = 0.0) -> None:
        """Finish the save if all is written; give it up if a rank failed.

        Raises:
            RecoveryError: the disk is full, or saving has failed again and again.

        """
        save = self._save
        if save is None:
            return
        calls = [call for _, call in save.writing]
        done = first_done(calls, timeout_s)
        failure = next((f for call in done if (f := failure_of(call, "checkpoint")) is not None), None)
        if failure is not None:
            self._give_up(save, failure)
        elif len(done) == len(calls):
            files = {
                f"{part}/{file.name}": file
                for (part, _), written in zip(save.writing, gather(calls, 60, "checkpoint"), strict=True)
                for file in written
            }
            with self._giving_up(save):
                self._store.complete(save.folder, save.progress, files, save.in_flight)
                self._save, self._failed = None, 0
                written_s = time.monotonic() - save.started
                message = f"{save.folder.name} is saved, written in {written_s:.1f} s"
                self._events.note("saved", message, step=save.progress.step, written_s=round(written_s, 3))
            self._rotate()

    def _rotate(self) -> None:
        """Old checkpoints that cannot be removed are in nobody's way."""
        try:
            self._store.rotate()
        except OSError as error:
            self._events.record("not_removed", f"an old checkpoint could not be removed: {error}")

    def give_up_if_busy(self, cause: str) -> None:
        """A save that takes too long has failed."""
        if self._save is not None:
            call = self._save.writing[0][1]
            self._give_up(self._save, Failure(FailureKind.HUNG, call.role, call.rank, call.call, "checkpoint", cause))

    def abandon(self) -> None:
        """Forget a save whose ranks are gone; without a manifest it does not exist."""
        self._save = None

    @contextmanager
    def _giving_up(self, save: _Save) -> Iterator[None]:
        """What the driver itself cannot write fails the save, as what a rank cannot write does."""
        try:
            yield
        except OSError as error:
            self._give_up(save, Failure(FailureKind.RAISED, "driver", 0, "save", "checkpoint", str(error), error.errno))

    def _give_up(self, save: _Save, failure: Failure) -> None:
        self._save = None
        self._failed += 1
        self._events.record("save_failed", f"{save.folder.name} was not saved: {failure}", step=save.progress.step)
        if failure.os_errno in FULL_DISK or self._failed >= MAX_FAILED_SAVES:
            raise RecoveryError(
                f"{save.folder} cannot be written: {failure}. Make room, then go on with --resume auto: nothing is lost"
            )
