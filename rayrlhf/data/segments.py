"""Open segments: the durable record of a step in progress, one writer a file.

    open/step-000012/<writer>.jsonl          one line a trajectory: CRC-32 in hexadecimal, a space, JSON
    open/step-000012/<writer>-000001.jsonl   where objects cannot grow (URLs), and after a write that failed

    append ──▶ queue ──▶ writer thread: all that waits, one write and one sync a file ──▶ futures

A writer never opens a file that it did not start, so only the last line of a file can be torn, and a reader
ignores it: nobody was told that it is durable.
"""

from __future__ import annotations

import json
import queue
import re
import threading
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rayrlhf.data.durable import append_durably, entries, is_local, read_folder, write_durably
from rayrlhf.errors import CheckpointError
from rayrlhf.types import Completion, Prompt, Trajectory, VersionSpan

_STEP_FOLDER = re.compile(r"step-(\d{6,})")


@dataclass(frozen=True, slots=True)
class _Line:
    step: int
    text: bytes
    durable: Future[None] = field(default_factory=Future)


class SegmentWriter:
    """One writer's open segments. No other process, earlier or later, may have the same `name`."""

    def __init__(self, directory: Path, name: str) -> None:
        self._directory = directory
        self._name = name
        self._number = 0 if is_local(directory) else 1
        self._waiting: queue.SimpleQueue[_Line | None] = queue.SimpleQueue()
        self._closed = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name=f"journal-{name}", daemon=True)
        self._thread.start()

    def append(self, step: int, trajectory: Trajectory) -> Future[None]:
        """Queue a trajectory; the future ends when it is durable, or with the error (OSError) that prevented it.

        A queued line is written: cancelling the future has no effect.
        """
        line = _Line(step, encode(trajectory))
        line.durable.set_running_or_notify_cancel()
        with self._lock:
            if self._closed:
                raise ValueError(f"journal writer {self._name} is closed")
            self._waiting.put(line)
        return line.durable

    def close(self) -> None:
        """End the thread once everything queued is durable."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._waiting.put(None)
        self._thread.join()

    def _run(self) -> None:
        closing = False
        while not closing:
            taken = [self._waiting.get()]
            while not self._waiting.empty():
                taken.append(self._waiting.get())
            lines = [line for line in taken if line is not None]
            closing = len(lines) < len(taken)
            for step in dict.fromkeys(line.step for line in lines):
                self._write(step, [line for line in lines if line.step == step])

    def _write(self, step: int, lines: Sequence[_Line]) -> None:
        try:
            self._store(step, b"".join(line.text for line in lines))
        except Exception as error:  # noqa: BLE001 (whatever a remote file system raises belongs to those who wait)
            self._number += 1  # the file may end in a torn line now, and nothing may follow it
            for line in lines:
                line.durable.set_exception(error)
        else:
            for line in lines:
                line.durable.set_result(None)

    def _store(self, step: int, text: bytes) -> None:
        number = f"-{self._number:06d}" if self._number else ""
        segment = open_folder(self._directory, step) / f"{self._name}{number}.jsonl"
        if is_local(self._directory):
            append_durably(segment, text)
        else:
            write_durably(segment, text)
            self._number += 1


def open_folder(directory: Path, step: int) -> Path:
    """Where the segments of a step in progress are."""
    return directory / "open" / f"step-{step:06d}"


def open_steps(directory: Path) -> list[int]:
    """The steps that have a folder of segments, in order."""
    names = (_STEP_FOLDER.fullmatch(folder.name) for folder in entries(directory / "open"))
    return sorted(int(name[1]) for name in names if name)


def read_open(directory: Path, step: int) -> dict[str, Trajectory]:
    """Trajectories of a step in progress that are durable, in the order of their ids; the first copy of each.

    A damaged line is a CheckpointError that names it.
    """
    found: dict[str, Trajectory] = {}
    for segment, text in read_folder(open_folder(directory, step), ".jsonl").items():
        for trajectory in _decode_segment(segment, text):
            found.setdefault(trajectory.id, trajectory)
    return {id_: found[id_] for id_ in sorted(found)}


def encode(trajectory: Trajectory) -> bytes:
    """A segment's line, its newline included. Floats keep every bit."""
    prompt, completion = trajectory.prompt, trajectory.completion
    row = {
        "id": trajectory.id,
        "group_id": trajectory.group_id,
        "sample_index": trajectory.sample_index,
        "prompt": {
            "id": prompt.id,
            "messages": prompt.messages,
            "token_ids": prompt.token_ids,
            "answer": prompt.answer,
            "metadata": dict(prompt.metadata),
        },
        "completion": {
            "token_ids": completion.token_ids,
            "behaviour_logprobs": completion.behaviour_logprobs,
            "finish_reason": completion.finish_reason,
            "version_spans": [{"start": s.start, "end": s.end, "version": s.version} for s in completion.version_spans],
        },
    }
    body = json.dumps(row, separators=(",", ":")).encode()
    return b"%08x %s\n" % (zlib.crc32(body), body)


def decode(line: bytes) -> Trajectory:
    """The trajectory of a line without its newline; ValueError, KeyError or TypeError where it is not one."""
    checksum, _, body = line.partition(b" ")
    if checksum != b"%08x" % zlib.crc32(body):
        raise ValueError("its checksum does not match")
    row: dict[str, Any] = json.loads(body)
    prompt, completion = row["prompt"], row["completion"]
    return Trajectory(
        id=row["id"],
        group_id=row["group_id"],
        sample_index=row["sample_index"],
        prompt=Prompt(
            prompt["id"], tuple(prompt["messages"]), tuple(prompt["token_ids"]), prompt["answer"], prompt["metadata"]
        ),
        completion=Completion(
            tuple(completion["token_ids"]),
            tuple(completion["behaviour_logprobs"]),
            completion["finish_reason"],
            tuple(VersionSpan(**span) for span in completion["version_spans"]),
        ),
    )


def _decode_segment(segment: Path, text: bytes) -> Iterator[Trajectory]:
    lines = text.split(b"\n")
    for number, line in enumerate(lines[:-1], start=1):  # after the last newline: nothing, or a torn line
        try:
            yield decode(line)
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"{segment}, line {number}: damaged ({type(error).__name__}: {error}); "
                "remove the file to generate its trajectories again"
            ) from None
