"""The durable record of every finished trajectory.

    open/step-000012/<writer>.jsonl   one writer each, one checksummed line a trajectory, synced when a group finishes
    step-000012.parquet               the committed step with its rewards, written beside and renamed

A torn last line is dropped; a damaged line elsewhere is an error. The storage format lives here, below the roles that
write it; the loop decides when.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rayrlhf.errors import CheckpointError
from rayrlhf.types import Completion, Prompt, Rewards, Trajectory, VersionSpan


class SegmentWriter:
    """One writer's open segments, a file a step."""

    def __init__(self, directory: Path, name: str) -> None:
        self._directory = directory
        self._name = name
        self._whole: set[Path] = set()

    def append(self, step: int, trajectories: Sequence[Trajectory]) -> None:
        """Make finished trajectories durable before anyone uses them."""
        folder = open_folder(self._directory, step)
        folder.mkdir(parents=True, exist_ok=True)
        lines = [_encode(trajectory) for trajectory in trajectories]
        segment = folder / f"{self._name}.jsonl"
        if segment not in self._whole:
            _drop_torn_tail(segment)
            self._whole.add(segment)
        with segment.open("ab") as file:
            file.write(b"".join(lines))
            file.flush()
            os.fsync(file.fileno())


def open_folder(directory: Path, step: int) -> Path:
    """Where the segments of a step in progress are."""
    return directory / "open" / f"step-{step:06d}"


def committed_file(directory: Path, step: int) -> Path:
    """The journal of a committed step."""
    return directory / f"step-{step:06d}.parquet"


def read_open(directory: Path, step: int) -> list[Trajectory]:
    """Trajectories of a step in progress that are durable, ordered by id, each id once."""
    found: dict[str, Trajectory] = {}
    for segment in sorted(open_folder(directory, step).glob("*.jsonl")):
        found |= {trajectory.id: trajectory for trajectory in _decode_segment(segment)}
    return [found[id_] for id_ in sorted(found)]


def commit_step(directory: Path, step: int, trajectories: Sequence[Trajectory], rewards: Rewards) -> Path:
    """Write the step's Parquet file atomically and drop its segments."""
    import pyarrow
    from pyarrow import parquet

    target = committed_file(directory, step)
    target.parent.mkdir(parents=True, exist_ok=True)
    table = pyarrow.Table.from_pylist([_columns(t, rewards) for t in sorted(trajectories, key=lambda t: t.id)])
    partial = target.with_suffix(".parquet.partial")
    parquet.write_table(table, partial)
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    partial.replace(target)
    folder = open_folder(directory, step)
    for segment in folder.glob("*.jsonl"):
        segment.unlink()
    if folder.is_dir():
        folder.rmdir()
    return target


def read_committed(directory: Path, step: int) -> list[dict[str, Any]]:
    """The rows of a committed step, as written."""
    from pyarrow import parquet

    rows: list[dict[str, Any]] = parquet.read_table(committed_file(directory, step)).to_pylist()
    return rows


def _drop_torn_tail(segment: Path) -> None:
    """What an earlier process was writing when it died must not swallow the next line."""
    if segment.is_file():
        written = segment.read_bytes()
        whole = written.rfind(b"\n") + 1
        if whole < len(written):
            os.truncate(segment, whole)


def _columns(trajectory: Trajectory, rewards: Rewards) -> dict[str, Any]:
    reward = rewards.by_id[trajectory.id]
    completion = trajectory.completion
    return {
        "trajectory_id": trajectory.id,
        "prompt_id": trajectory.prompt.id,
        "group_id": trajectory.group_id,
        "sample_index": trajectory.sample_index,
        "policy_versions": list(completion.policy_versions),
        "prompt_token_ids": list(trajectory.prompt.token_ids),
        "response_token_ids": list(completion.token_ids),
        "behaviour_logprobs": list(completion.behaviour_logprobs),
        "finish_reason": completion.finish_reason,
        "reward": reward.value,
        "reward_components": json.dumps(dict(reward.components)),
        "reward_status": reward.status,
    }


def _encode(trajectory: Trajectory) -> bytes:
    body = json.dumps(asdict(trajectory), separators=(",", ":")).encode()
    return b"%08x %s\n" % (zlib.crc32(body), body)


def _decode_segment(path: Path) -> Iterator[Trajectory]:
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines[:-1], start=1):  # after the last newline: nothing, or a torn line
        checksum, _, body = line.partition(b" ")
        if checksum != b"%08x" % zlib.crc32(body):
            raise CheckpointError(f"{path}, line {number}: damaged (its checksum does not match)")
        yield _trajectory(json.loads(body))


def _trajectory(row: dict[str, Any]) -> Trajectory:
    prompt, completion = row["prompt"], row["completion"]
    return Trajectory(
        id=row["id"],
        group_id=row["group_id"],
        sample_index=row["sample_index"],
        prompt=Prompt(
            prompt["id"],
            tuple(prompt["messages"]),
            tuple(prompt["token_ids"]),
            prompt["answer"],
            prompt["metadata"],
        ),
        completion=Completion(
            tuple(completion["token_ids"]),
            tuple(completion["behaviour_logprobs"]),
            completion["finish_reason"],
            tuple(VersionSpan(**span) for span in completion["version_spans"]),
        ),
    )
