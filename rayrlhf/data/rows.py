"""Reading demonstrations, comparisons and prompts from JSONL, Parquet or a hub id, and checking every row.

    prompt         {"messages": [...]}                     optional: id, answer, metadata
    demonstration  {"messages": [...], "response": str}
    comparison     {"messages": [...], "chosen": str, "rejected": str}
    ranking        {"messages": [...], "responses": [str, ...], "ranks": [int, ...]}   rank 1 is best, equal is a tie

Wrong rows are named by file and line.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from rayrlhf.errors import DataError
from rayrlhf.types import Message

T = TypeVar("T")
ROLES = ("system", "user", "assistant", "tool")


@dataclass(frozen=True, slots=True)
class PromptRow:
    """A conversation to answer, with what a reward may need to judge the answer."""

    id: str
    messages: tuple[Message, ...]
    answer: str | None
    metadata: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Demonstration:
    """A conversation and the response a person wants to see."""

    messages: tuple[Message, ...]
    response: str

    @property
    def conversation(self) -> tuple[Message, ...]:
        """The messages with the response as the last turn."""
        return (*self.messages, Message(role="assistant", content=self.response))


@dataclass(frozen=True, slots=True)
class Ranking:
    """K answers to one prompt and the pairs (winner, loser) that people ordered; a comparison has K = 2."""

    messages: tuple[Message, ...]
    responses: tuple[str, ...]
    pairs: tuple[tuple[int, int], ...]


def read_prompts(source: str) -> list[PromptRow]:
    """Prompts; the id defaults to the row's number."""
    return read_rows(source, _prompt)


def read_demonstrations(source: str) -> list[Demonstration]:
    """Demonstrations."""
    return read_rows(source, _demonstration)


def read_rankings(source: str) -> list[Ranking]:
    """Comparisons and rankings, pairs as rankings of two."""
    return read_rows(source, _ranking)


def read_texts(source: str) -> list[str]:
    """Plain `text` rows, for PPO-ptx."""
    return read_rows(source, lambda row, _: _string(row, "text"))


def read_rows(source: str, parse: Callable[[Mapping[str, Any], int], T]) -> list[T]:
    """Rows through a function of the row and its number, which raises RowError for a wrong one."""
    rows: list[T] = []
    for number, row in _raw_rows(source):
        try:
            rows.append(parse(row, number))
        except RowError as error:
            raise DataError(f"{source}, line {number}: {error}") from None
    if not rows:
        raise DataError(f"{source}: no rows")
    return rows


def _raw_rows(source: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    path = Path(source)
    if path.suffix in (".jsonl", ".json", ".parquet") or path.exists():
        if not path.is_file():
            raise DataError(f"{source}: no such data file")
        yield from _parquet_rows(path) if path.suffix == ".parquet" else _jsonl_rows(path)
    else:
        yield from _hub_rows(source)


def _jsonl_rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line.decode("utf-8"))
            except UnicodeDecodeError as error:
                raise DataError(f"{path}, line {number}: not UTF-8: {error.reason} at byte {error.start}") from None
            except json.JSONDecodeError as error:
                raise DataError(f"{path}, line {number}: not JSON: {error.msg} at column {error.colno}") from None
            if not isinstance(row, dict):
                raise DataError(f"{path}, line {number}: expected a JSON object, found {type(row).__name__}")
            yield number, row


def _parquet_rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.read_table(path)
    except pyarrow.ArrowInvalid as error:
        raise DataError(f"{path}: not a Parquet file: {error}") from None
    for number, row in enumerate(table.to_pylist(), start=1):
        yield number, {key: value for key, value in row.items() if value is not None}


def _hub_rows(source: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """`owner/name` or `owner/name:split` through `datasets`."""
    import datasets

    name, _, split = source.partition(":")
    try:
        rows = datasets.load_dataset(name, split=split or "train")
    except (OSError, ValueError) as error:
        raise DataError(
            f"{source}: neither a file here nor a data set that `datasets` can load: {str(error).splitlines()[0]}"
        ) from None
    yield from enumerate(rows, start=1)


class RowError(ValueError):
    """What is wrong with one row: `read_rows` adds where."""


def _prompt(row: Mapping[str, Any], number: int) -> PromptRow:
    answer = row.get("answer")
    return PromptRow(
        id=str(row.get("id", f"{number:06d}")),
        messages=_messages(row),
        answer=None if answer is None else str(answer),
        metadata=row.get("metadata") or {},
    )


def _demonstration(row: Mapping[str, Any], _: int) -> Demonstration:
    return Demonstration(_messages(row), _string(row, "response"))


def _ranking(row: Mapping[str, Any], _: int) -> Ranking:
    if "responses" not in row:
        answers = (_string(row, "chosen", or_empty=True), _string(row, "rejected", or_empty=True))
        return Ranking(_messages(row), answers, ((0, 1),))
    responses, ranks = row["responses"], row.get("ranks")
    if not isinstance(responses, list) or not all(isinstance(r, str) for r in responses) or len(responses) < 2:
        raise RowError("`responses` must be a list of two or more strings")
    if not isinstance(ranks, list) or len(ranks) != len(responses) or not all(isinstance(r, int) for r in ranks):
        raise RowError("`ranks` must be a list of whole numbers, one a response (1 is best)")
    count = range(len(ranks))
    pairs = tuple((i, j) for i in count for j in count if ranks[i] < ranks[j])
    return Ranking(_messages(row), tuple(responses), pairs)


def _messages(row: Mapping[str, Any]) -> tuple[Message, ...]:
    messages = row.get("messages")
    if not isinstance(messages, list) or not messages:
        raise RowError("`messages` must be a non-empty list of {role, content}")
    for message in messages:
        if not isinstance(message, dict) or message.get("role") not in ROLES:
            raise RowError(f"each message needs a `role` among {', '.join(ROLES)}")
        if not isinstance(message.get("content"), str):
            raise RowError("each message needs a string `content`")
    return tuple(Message(role=m["role"], content=m["content"]) for m in messages)


def _string(row: Mapping[str, Any], key: str, *, or_empty: bool = False) -> str:
    """A text; `or_empty` where a model may have said nothing, and people judged that."""
    value = row.get(key)
    if not isinstance(value, str) or not (or_empty or value.strip()):
        wanted = "a string" if or_empty else "a non-empty string"
        raise RowError(f"`{key}` must be {wanted}, found {value!r}"[:200])
    return value
