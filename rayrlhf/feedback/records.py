"""What people say about answers, as they send it and as it is kept. Strict and frozen; text is kept as given.

    Answer ◀── response id ── Thumb, Rating, Correction, Flag      one person about one answer
       ▲────── response ids ── Comparison                          one person about 2 to 9 answers to one prompt

Who sent it and when is not part of a post: the service knows that from the token and its clock.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, TypeAdapter, model_validator

from rayrlhf.access.strict import Name, Record, read_strictly, without_nul

MAX_TEXT_CHARACTERS = 32_768
MAX_ANSWERS = 9
"""InstructGPT's labellers ranked 4 to 9 answers (arXiv 2203.02155, section 3.5)."""


Text = Annotated[str, Field(min_length=1, max_length=MAX_TEXT_CHARACTERS), AfterValidator(without_nul)]
Note = Annotated[str, Field(max_length=4_000), AfterValidator(without_nul)]
FlagReason = Literal["harmful", "untrue", "private", "off_topic", "other"]


class Turn(Record):
    """One message of a conversation."""

    role: Literal["system", "user", "assistant", "tool"]
    content: Annotated[str, AfterValidator(without_nul)]


class Answer(Record):
    """One answer that the service gave, and what is needed to learn from it."""

    response_id: Name
    conversation: Annotated[tuple[Turn, ...], Field(min_length=1)]
    text: Annotated[str, AfterValidator(without_nul)]
    """May be empty: a model can say nothing, and people judge that."""
    policy_version: Annotated[int, Field(ge=0)]
    model: Name
    sampling: dict[str, Any]
    """Temperature and so on, as JSON."""
    user: Name
    at: datetime

    @property
    def is_chat(self) -> bool:
        """Whether the conversation is one. A text that was gone on with (`/v1/completions`) trains no chat."""
        return "endpoint" not in self.sampling

    @property
    def conversation_key(self) -> str:
        """The same for answers to the same conversation."""
        return digest([[turn.role, turn.content] for turn in self.conversation])


class Post(Record):
    """What a client sends; sent again with the same `idempotency_key`, it is recorded once."""

    idempotency_key: Name

    @property
    def content_digest(self) -> str:
        """Tells a repeat from another post under the same key."""
        return digest([type(self).__name__, self.model_dump(exclude={"idempotency_key"})])


class _AboutAnswer(Post):
    response_id: Name


class Thumb(_AboutAnswer):
    """Good or bad."""

    kind: Literal["thumb"]
    value: Literal["up", "down"]


class Rating(_AboutAnswer):
    """1 (worst) to 5 (best)."""

    kind: Literal["rating"]
    value: Annotated[int, Field(ge=1, le=5)]


class Correction(_AboutAnswer):
    """What the answer should have been: a demonstration."""

    kind: Literal["correction"]
    text: Text


class Flag(_AboutAnswer):
    """Something is wrong with the answer beyond its quality."""

    kind: Literal["flag"]
    reason: FlagReason
    note: Note = ""


Feedback = Annotated[Thumb | Rating | Correction | Flag, Field(discriminator="kind")]


class Comparison(Post):
    """Answers to one prompt in the order in which they were shown, and their ranks: 1 is best, equal is a tie."""

    response_ids: Annotated[tuple[Name, ...], Field(min_length=2, max_length=MAX_ANSWERS)]
    ranks: tuple[int, ...]
    both_bad: bool = False
    """None of the answers is acceptable, whatever their order."""
    task_id: Name | None = None
    """The task that this answers, if the service had set one."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        count = len(self.response_ids)
        if len(set(self.response_ids)) != count:
            raise ValueError("response_ids: every answer can be there once")
        if len(self.ranks) != count:
            raise ValueError(f"ranks: one for each of the {count} answers is expected, found {len(self.ranks)}")
        if min(self.ranks) != 1 or max(self.ranks) > count:
            raise ValueError(f"ranks: whole numbers from 1 (best, always there) to {count} are expected")
        return self

    @property
    def task_key(self) -> str:
        """The same for the same set of answers, in whatever order they were shown."""
        return task_key_of(self.response_ids)


@dataclass(frozen=True, slots=True)
class Author:
    """Who said something, and when (UTC)."""

    user: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Receipt:
    """The record's id; not new if it had been there already."""

    id: str
    is_new: bool


_FEEDBACK: TypeAdapter[Feedback] = TypeAdapter(Feedback)
_COMPARISON = TypeAdapter(Comparison)


def read_feedback(body: bytes | str) -> Thumb | Rating | Correction | Flag:
    """A post from JSON, or the one sentence that says what is wrong with it."""
    return read_strictly(_FEEDBACK, body)


def read_comparison(body: bytes | str) -> Comparison:
    """A comparison from JSON, or the one sentence that says what is wrong with it."""
    return read_strictly(_COMPARISON, body)


def task_key_of(response_ids: tuple[str, ...]) -> str:
    """The key of a set of answers."""
    return digest(sorted(response_ids))


def digest(value: Any) -> str:
    """SHA-256 of a JSON value, in hexadecimal."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
