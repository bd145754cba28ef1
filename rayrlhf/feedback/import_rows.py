"""A row of an exported file, or of anybody's comparisons, as records. Knows no store.

Who, when and which policy come from the columns that an export writes; what has none gets the labeller that is given,
now, and policy version 0. A response id is kept if our keys have signed it for this very text; any other answer gets a
new one, which is the same each time under the same key.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Self

from pydantic import AwareDatetime, ConfigDict, Field, Json, ValidationError, model_validator

from rayrlhf.access.strict import Name, Record, explain
from rayrlhf.data.rows import RowError
from rayrlhf.errors import RequestRefusedError
from rayrlhf.feedback.records import (
    MAX_ANSWERS,
    Answer,
    Author,
    Comparison,
    Correction,
    Thumb,
    Turn,
    digest,
)
from rayrlhf.feedback.signing import KeyRing


@dataclass(frozen=True, slots=True)
class Entry:
    """One row as records: an author, the answers and the post about them."""

    author: Author
    answers: tuple[Answer, ...]
    post: Comparison | Correction | Thumb


class _Row(Record):
    """Columns that are not read here are let pass."""

    model_config = ConfigDict(extra="ignore")

    messages: Annotated[tuple[Turn, ...], Field(min_length=1)]
    labeller: Name | None = None
    time: AwareDatetime | None = None


class _Given(Record):
    """One answer of a row, with what is known of it."""

    text: str
    response_id: Name | None = None
    policy_version: Annotated[int, Field(ge=0)] = 0
    model: Name = "imported"
    sampling: Json[dict[str, Any]] = Field(default_factory=dict)
    user: Name | None = None
    at: AwareDatetime | None = None


class _ComparisonRow(_Row):
    responses: Annotated[tuple[str, ...] | None, Field(min_length=2, max_length=MAX_ANSWERS)] = None
    chosen: str = ""
    rejected: str = ""
    ranks: tuple[int, ...] = (1, 2)
    both_bad: bool = False

    @property
    def texts(self) -> tuple[str, ...]:
        """The answers, in the order of the ranks."""
        if self.responses is not None:
            return self.responses
        pair = self.chosen, self.rejected
        return pair if self.ranks == (1, 2) else pair[::-1]

    @property
    def places(self) -> tuple[int, ...]:
        """The ranks, counted from 1 where a file counts from elsewhere."""
        if min(self.ranks) == 1 and max(self.ranks) <= len(self.ranks):
            return self.ranks
        return tuple(1 + sum(other < rank for other in self.ranks) for rank in self.ranks)

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.responses is None and not {"chosen", "rejected"} <= self.model_fields_set:
            raise ValueError("`chosen` and `rejected`, or `responses` and `ranks`, or `response` are expected")
        if self.responses is None and sorted(self.ranks) != [1, 2]:
            raise ValueError("`ranks` of a pair must be [1, 2] or [2, 1]")
        if len(self.ranks) != len(self.texts):
            raise ValueError("`ranks` must have one whole number an answer (1 is best)")
        return self


class _DemonstrationRow(_Row):
    response: str
    kind: str
    answer: str


_COLUMNS = {
    "response_ids": "response_id", "policy_versions": "policy_version", "models": "model", "sampling": "sampling",
    "users": "user", "answer_times": "at",
}  # fmt: skip
"""Of a comparison; each has one value an answer."""
_DEMONSTRATION_COLUMNS = {name: name for name in ("response_id", "policy_version", "model", "sampling", "user")}
_DEMONSTRATION_COLUMNS["answer_time"] = "at"


@dataclass(frozen=True, slots=True)
class RowReader:
    """Makes entries from rows."""

    keys: KeyRing
    labeller: str
    now: datetime

    def entry(self, row: Mapping[str, Any], _: int) -> Entry:
        """Check a row; RowError says what is wrong with it."""
        key = f"import-{digest(dict(row))}"
        try:
            return self._demonstration(row, key) if "response" in row else self._comparison(row, key)
        except ValidationError as error:
            raise RowError(explain(error)) from None

    def _comparison(self, raw: Mapping[str, Any], key: str) -> Entry:
        row = _ComparisonRow.model_validate_json(json.dumps(raw))
        author, texts = self._author(row), row.texts
        known: list[dict[str, Any]] = [{} for _ in texts]
        for column, name in _COLUMNS.items():
            values = raw.get(column)
            if values is not None:
                if not isinstance(values, list) or len(values) != len(texts):
                    raise RowError(f"`{column}` must be a list with one value an answer")
                for one, value in zip(known, values, strict=True):
                    one[name] = value
        answers = tuple(
            self._answer(row, author, {"text": text, **known[n]}, copy=texts[:n].count(text))
            for n, text in enumerate(texts)
        )
        ids = tuple(answer.response_id for answer in answers)
        post = Comparison(idempotency_key=key, response_ids=ids, ranks=row.places, both_bad=row.both_bad)
        return Entry(author, answers, post)

    def _demonstration(self, raw: Mapping[str, Any], key: str) -> Entry:
        if "answer" not in raw:
            raise RowError("`answer`: a demonstration is stored as a correction of an answer, which is not here")
        row = _DemonstrationRow.model_validate_json(json.dumps(raw))
        author = self._author(row)
        known = {name: raw[column] for column, name in _DEMONSTRATION_COLUMNS.items() if raw.get(column) is not None}
        answer = self._answer(row, author, {"text": row.answer, **known})
        if row.kind == "thumb":
            thumb = Thumb(kind="thumb", value="up", response_id=answer.response_id, idempotency_key=key)
            return Entry(author, (answer,), thumb)
        correction = Correction(
            kind="correction", text=row.response, response_id=answer.response_id, idempotency_key=key
        )
        return Entry(author, (answer,), correction)

    def _author(self, row: _Row) -> Author:
        return Author(row.labeller or self.labeller, row.time or self.now)

    def _answer(self, row: _Row, author: Author, known: Mapping[str, Any], copy: int = 0) -> Answer:
        """`copy` counts equal texts of one row, which are answers of their own."""
        given = _Given.model_validate_json(json.dumps(known))
        response_id = given.response_id
        if response_id is None or not self._is_ours(response_id, row.messages, given.text):
            content = digest([[turn.model_dump() for turn in row.messages], given.text, copy])
            nonce = hashlib.sha256(f"import {content}".encode()).digest()[:16]
            response_id = self.keys.sign(row.messages, given.text, given.policy_version, nonce)
        return Answer(
            response_id=response_id,
            conversation=row.messages,
            text=given.text,
            policy_version=given.policy_version,
            model=given.model,
            sampling=given.sampling,
            user=given.user or author.user,
            at=given.at or author.at,
        )

    def _is_ours(self, response_id: str, messages: tuple[Turn, ...], text: str) -> bool:
        try:
            return self.keys.covers(response_id, messages, text)
        except RequestRefusedError:
            return False
