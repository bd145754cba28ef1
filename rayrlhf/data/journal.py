"""The durable record of every finished trajectory: `docs/journal.md` is its page for readers.

    open/step-000012/…      the step in progress (`segments.py`)
    step-000012.parquet     the committed step with its rewards; it appears whole, then its segments go
    rejected.jsonl          groups that the run gave up, one JSON line each

The storage format lives here, below the roles that write it; the loop decides when. Every `OSError` of the file
system passes through; what is missing or damaged is a CheckpointError that names the file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rayrlhf.data.append_log import AppendLog
from rayrlhf.data.durable import entries, is_file, read_bytes, read_tail, remove_file, remove_tree, write_durably
from rayrlhf.data.segments import open_folder, open_steps, read_open
from rayrlhf.errors import CheckpointError
from rayrlhf.types import Completion, Prompt, Reward, Rewards, Trajectory, VersionSpan

if TYPE_CHECKING:
    import pyarrow
    from pyarrow import parquet

SCHEMA: Mapping[str, tuple[str, str]] = {
    "trajectory_id": ("string", "sorts in the order in which the run uses it"),
    "prompt_id": ("string", "id of the prompt in the data"),
    "group_id": ("string", "this use of the prompt; its samples share it"),
    "sample_index": ("int32", "0 to K-1 within the group"),
    "step": ("int32", "the step that learned from it"),
    "policy_versions": ("list<int32>", "the policy versions that wrote the response, oldest first"),
    "version_starts": ("list<int32>", "first response token of each version; a span ends where the next starts"),
    "prompt_token_ids": ("list<int32>", "the prompt in the policy's chat template"),
    "response_token_ids": ("list<int32>", "what the policy wrote, an end-of-sequence token included"),
    "behaviour_logprobs": ("list<double>", "log-probability of each response token in nats, as sampled"),
    "finish_reason": ("string", "`stop`: the policy ended it; `length`: cut at max_tokens"),
    "reward": ("double", "what the algorithm optimises; null where scoring failed"),
    "reward_components": ("string", "JSON object: the parts of the reward by name"),
    "reward_status": ("string", "`ok`, `timeout` or `error`"),
    "messages": ("string", "JSON list of {role, content}: the conversation that was answered"),
    "response": ("string", "the response as text"),
    "answer": ("string", "the reference answer of the data; null where it has none"),
    "metadata": ("string", "JSON object: the prompt's metadata"),
}
"""Columns of a committed step: Arrow type and meaning. The files carry the meaning too, as field metadata."""

_FOOTER_BYTES = 1 << 16
"""What is read first of a file of which only the metadata is wanted; they are at its end and take some 10 KB."""
_STEP_FILE = re.compile(r"step-(\d{6,})\.parquet")


@dataclass(frozen=True, slots=True)
class Rejection:
    """A group that the run gave up."""

    group_id: str
    prompt_id: str
    cause: str


class Journal:
    """The trajectories under one directory. One process commits, rejects and sweeps; any may read."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._rejected = directory / "rejected.jsonl"
        self._rejections = AppendLog(self._rejected)

    def committed_steps(self) -> list[int]:
        """The steps that have a file, in order; the files are not opened."""
        names = (_STEP_FILE.fullmatch(path.name) for path in entries(self._directory))
        return sorted(int(name[1]) for name in names if name)

    def open_steps(self) -> list[int]:
        """The steps that have segments, in order."""
        return open_steps(self._directory)

    def commit(
        self, step: int, trajectories: Sequence[Trajectory], rewards: Rewards, responses: Mapping[str, str]
    ) -> None:
        """Write the step's file, then drop its segments. `responses` has each trajectory's text by id."""
        import pyarrow
        from pyarrow import parquet

        ordered = sorted(trajectories, key=lambda t: t.id)
        rows = [_row(step, t, rewards.by_id[t.id], responses[t.id]) for t in ordered]
        about = {"rayrlhf.step": str(step), "rayrlhf.rows": str(len(rows))}
        buffer = pyarrow.BufferOutputStream()
        table = pyarrow.Table.from_pylist(rows, schema=arrow_schema().with_metadata(about))
        parquet.write_table(table, buffer, write_page_checksum=True)
        write_durably(self._file(step), buffer.getvalue().to_pybytes())
        remove_tree(open_folder(self._directory, step))

    def has(self, step: int) -> bool:
        """Whether the step is committed."""
        return is_file(self._file(step))

    def read(self, step: int) -> dict[str, Trajectory]:
        """Trajectories by id, in order: of the committed file where there is one, else those that are durable."""
        if is_file(self._file(step)):
            return {row["trajectory_id"]: _trajectory(row) for row in self.rows(step)}
        return read_open(self._directory, step)

    def rewards(self, step: int) -> Rewards:
        """The rewards of a committed step."""
        return Rewards(
            {
                row["trajectory_id"]: Reward(row["reward"], json.loads(row["reward_components"]), row["reward_status"])
                for row in self.rows(step)
            }
        )

    def rows(self, step: int, columns: Sequence[str] | None = None) -> list[dict[str, Any]]:
        """The rows of a committed step, as written; all columns by default."""
        rows: list[dict[str, Any]] = self._table(step, columns).to_pylist()
        return rows

    def table(self, steps: Sequence[int] | None = None) -> pyarrow.Table:
        """Committed steps as one table in memory; all of them by default."""
        import pyarrow

        chosen = self.committed_steps() if steps is None else steps
        return pyarrow.concat_tables([arrow_schema().empty_table(), *map(self._table, chosen)])

    def sweep(self) -> None:
        """Remove what a crash left behind: segments of committed steps, and files that were never renamed."""
        committed = set(self.committed_steps())
        for step in open_steps(self._directory):
            if step in committed:
                remove_tree(open_folder(self._directory, step))
        for path in entries(self._directory):
            if path.suffix == ".partial":
                remove_file(path)

    def check(self) -> None:
        """Read every committed file's metadata, every open line of other steps and every rejection."""
        import pyarrow

        committed = self.committed_steps()
        for step in committed:
            path = self._file(step)
            footer = _footer(path)
            with _naming_damage(path):
                _open_parquet(pyarrow.BufferReader(footer), step)
        for step in set(open_steps(self._directory)).difference(committed):
            read_open(self._directory, step)
        self.rejected()

    def reject(self, group_id: str, prompt_id: str, cause: str) -> None:
        """Record durably that the run goes on without this group."""
        row = {"group_id": group_id, "prompt_id": prompt_id, "cause": cause}
        self._rejections.append(json.dumps(row).encode() + b"\n")

    def rejected(self) -> set[str]:
        """The ids of the groups that were given up; a torn last line is none."""
        return {rejection.group_id for rejection in self.rejections()}

    def rejections(self) -> list[Rejection]:
        """The groups that were given up, in the order in which that happened."""
        found = []
        for number, line in enumerate(self._rejections.lines(), start=1):
            try:
                row = json.loads(line)
                found.append(Rejection(str(row["group_id"]), str(row["prompt_id"]), str(row["cause"])))
            except (ValueError, KeyError, TypeError):
                raise CheckpointError(f"{self._rejected}, line {number}: damaged; remove the line") from None
        return found

    def _file(self, step: int) -> Path:
        return self._directory / f"step-{step:06d}.parquet"

    def _table(self, step: int, columns: Sequence[str] | None = None) -> pyarrow.Table:
        import pyarrow

        chosen = list(SCHEMA) if columns is None else list(columns)
        schema = pyarrow.schema([arrow_schema().field(name) for name in chosen])
        path = self._file(step)
        try:
            source = pyarrow.BufferReader(read_bytes(path))
        except FileNotFoundError:
            raise CheckpointError(f"{path}: no such file; step {step} is not committed") from None
        with _naming_damage(path):
            return _open_parquet(source, step).read(columns=chosen).select(chosen).cast(schema)


def arrow_schema() -> pyarrow.Schema:
    """`SCHEMA` for pyarrow, each field with its meaning."""
    import pyarrow

    def arrow_type(name: str) -> pyarrow.DataType:
        item = name.removeprefix("list<").removesuffix(">")
        return pyarrow.type_for_alias(name) if item == name else pyarrow.list_(pyarrow.type_for_alias(item))

    return pyarrow.schema(
        pyarrow.field(name, arrow_type(type_), metadata={"meaning": meaning})
        for name, (type_, meaning) in SCHEMA.items()
    )


@contextmanager
def _naming_damage(path: Path) -> Iterator[None]:
    """What Arrow cannot read, or reads otherwise than it was written, is a CheckpointError that names the file."""
    import pyarrow

    try:
        yield
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        cause = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(
            f"{path}: truncated or damaged ({cause}); remove the file to generate its step again"
        ) from None


def _footer(path: Path) -> bytes:
    """The end of a Parquet file, with all of its metadata: …, metadata, their size in 4 bytes, `PAR1`."""
    end = read_tail(path, _FOOTER_BYTES)
    needed = int.from_bytes(end[-8:-4], "little") + 8
    return end if needed <= len(end) else read_tail(path, needed)


def _open_parquet(source: Any, step: int) -> parquet.ParquetFile:
    """A committed file whose metadata is as it should be; ValueError where it is not."""
    from pyarrow import parquet

    opened = parquet.ParquetFile(source, page_checksum_verification=True)
    missing = [name for name in SCHEMA if name not in opened.schema_arrow.names]
    if missing:
        raise ValueError(f"no column {', '.join(missing)}")
    about = opened.metadata.metadata or {}
    for key, value in {b"rayrlhf.step": step, b"rayrlhf.rows": opened.metadata.num_rows}.items():
        if about.get(key) != b"%d" % value:
            raise ValueError(f"{key.decode()} is {about.get(key)!r}, expected {value}")
    return opened


def _row(step: int, trajectory: Trajectory, reward: Reward, response: str) -> dict[str, Any]:
    prompt, completion = trajectory.prompt, trajectory.completion
    row = {
        "trajectory_id": trajectory.id,
        "prompt_id": prompt.id,
        "group_id": trajectory.group_id,
        "sample_index": trajectory.sample_index,
        "step": step,
        "policy_versions": completion.policy_versions,
        "version_starts": [span.start for span in completion.version_spans],
        "prompt_token_ids": prompt.token_ids,
        "response_token_ids": completion.token_ids,
        "behaviour_logprobs": completion.behaviour_logprobs,
        "finish_reason": completion.finish_reason,
        "reward": reward.value,
        "reward_components": json.dumps(dict(reward.components)),
        "reward_status": reward.status,
        "messages": json.dumps(prompt.messages, ensure_ascii=False),
        "response": response,
        "answer": prompt.answer,
        "metadata": json.dumps(dict(prompt.metadata), ensure_ascii=False),
    }
    if _spans(row) != completion.version_spans:
        raise ValueError(f"{trajectory.id}: version spans {completion.version_spans} leave a gap or overlap")
    return row


def _spans(row: Mapping[str, Any]) -> tuple[VersionSpan, ...]:
    starts = row["version_starts"]
    ends = [*starts[1:], len(row["response_token_ids"])]
    return tuple(VersionSpan(*span) for span in zip(starts, ends, row["policy_versions"], strict=bool(starts)))


def _trajectory(row: Mapping[str, Any]) -> Trajectory:
    messages, metadata = json.loads(row["messages"]), json.loads(row["metadata"])
    prompt = Prompt(row["prompt_id"], tuple(messages), tuple(row["prompt_token_ids"]), row["answer"], metadata)
    completion = Completion(
        tuple(row["response_token_ids"]), tuple(row["behaviour_logprobs"]), row["finish_reason"], _spans(row)
    )
    return Trajectory(row["trajectory_id"], row["group_id"], row["sample_index"], prompt, completion)
