"""What goes over the wire between a run and a reward service, and how its answers are read: strictly.

    POST /v1/rewards        {"items": [{"id", "messages", "response", "finish_reason", "answer", "metadata"}, …],
                             "timeout_s": 30}
                       ──▶  {"object": "rewards", "model", "digest",
                             "items": [{"id", "status", "value", "components", "reason", "scoring_s"}, …]}
    GET /v1/rewards/model   {"object": "reward_model", "model", "digest", "max_items", "max_body_bytes"}

`timeout_s` is the deadline of scoring one item; an item that waits for others is not being scored. `status` is ok,
timeout or error; only ok has a value.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self, TypeGuard

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticSerializationError

from rayrlhf.access.strict import Record, explain
from rayrlhf.rewards.requests import RewardRequest
from rayrlhf.types import FinishReason, Message, Reward, RewardStatus

REWARDS = "/v1/rewards"
MODEL = "/v1/rewards/model"
SCORER_LOST = "scorer_lost"
"""The error code of a 503 that says: what scored these items is gone, perhaps because of one of them."""

PROBE = RewardRequest((Message(role="user", content="Are you there?"),), "Yes.", "stop", None, {})
"""What is scored to see whether scoring works."""


@dataclass(frozen=True, slots=True)
class Scored:
    """A reward, why it has none, and how long scoring took."""

    reward: Reward
    reason: str | None = None
    scoring_s: float = 0.0

    @classmethod
    def failed(cls, status: RewardStatus, reason: str, scoring_s: float = 0.0) -> Self:
        """No reward."""
        return cls(Reward(None, {}, status), reason, scoring_s)


class Turn(Record):
    """One message of a conversation."""

    role: Annotated[str, Field(min_length=1, max_length=100)]
    content: str


class RewardItem(Record):
    """One answer to judge; `id` is the sender's own."""

    id: Annotated[str, Field(min_length=1, max_length=200)]
    messages: tuple[Turn, ...]
    response: str
    finish_reason: FinishReason = "stop"
    answer: str | None = None
    metadata: dict[str, Any] = Field(default_factory=dict)

    def request(self) -> RewardRequest:
        """The item as a reward source sees it."""
        messages = tuple(Message(role=turn.role, content=turn.content) for turn in self.messages)
        return RewardRequest(messages, self.response, self.finish_reason, self.answer, self.metadata)


class RewardPost(Record):
    """The body of POST /v1/rewards."""

    items: Annotated[tuple[RewardItem, ...], Field(min_length=1)]
    timeout_s: Annotated[float, Field(gt=0, le=600)] = 30.0

    @model_validator(mode="after")
    def _ids_differ(self) -> Self:
        if len({item.id for item in self.items}) != len(self.items):
            raise ValueError("items: two have the same id")
        return self


class ServedModel(BaseModel):
    """Which model a service has, and how much it takes at once."""

    model_config = ConfigDict(frozen=True, strict=True, protected_namespaces=())

    object: Literal["reward_model"] = "reward_model"
    model: Annotated[str, Field(min_length=1, max_length=1000)]
    digest: Annotated[str, Field(min_length=1, max_length=200)]
    max_items: Annotated[int, Field(ge=1)] = 256
    max_body_bytes: Annotated[int, Field(ge=1024)] = 8 << 20


class MalformedAnswerError(ValueError):
    """An answer that is not what was agreed."""


class OtherModelError(ValueError):
    """A service that was given another model under way."""


class _Answer(BaseModel):
    model_config = ConfigDict(strict=True, protected_namespaces=())

    object: Literal["rewards"]
    model: str
    digest: str
    items: tuple[dict[str, Any], ...]


def packed(id_: str, request: RewardRequest) -> bytes | str:
    """An item as JSON, or why it cannot be one."""
    try:
        turns = tuple(Turn(role=turn["role"], content=turn["content"]) for turn in request.messages)
        item = RewardItem(
            id=id_,
            messages=turns,
            response=request.response,
            finish_reason=request.finish_reason,
            answer=request.answer,
            metadata=dict(request.metadata),
        )
        return item.model_dump_json().encode()
    except (ValidationError, PydanticSerializationError, UnicodeError, KeyError) as error:
        return f"cannot be sent as JSON: {explain(error) if isinstance(error, ValidationError) else error}"


def post_body(items: Sequence[bytes], timeout_s: float) -> bytes:
    """The body of a request with packed items."""
    return b'{"items":[' + b",".join(items) + b'],"timeout_s":' + json.dumps(timeout_s).encode() + b"}"


def answer_of(served: ServedModel, ids: Sequence[str], scored: Sequence[Scored]) -> dict[str, Any]:
    """The answer to a request."""
    items = [
        {
            "id": id_,
            "status": one.reward.status,
            "value": one.reward.value,
            "components": dict(one.reward.components),
            "reason": one.reason,
            "scoring_s": round(one.scoring_s, 6),
        }
        for id_, one in zip(ids, scored, strict=True)
    ]
    return {"object": "rewards", "model": served.model, "digest": served.digest, "items": items}


def read_answer(body: bytes, ids: Sequence[str], digest: str) -> list[Scored]:
    """One score an id, in order. What is wrong with one item alone is that item's error.

    Raises:
        MalformedAnswerError: not JSON of this shape, or other items than were sent, or in another order.
        OtherModelError: of another model than `digest`.

    """
    try:
        answer = _Answer.model_validate_json(body)
    except ValidationError as error:
        raise MalformedAnswerError(explain(error)) from None
    if answer.digest != digest:
        raise OtherModelError(f"the service has another model now: {answer.model} ({answer.digest}), not {digest}")
    found = [item.get("id") for item in answer.items]
    if found != list(ids):
        what = "in another order" if sorted(map(str, found)) == sorted(ids) else "not those of the items sent"
        raise MalformedAnswerError(f"{len(found)} ids for {len(ids)} items, {what}")
    return [_read_item(item) for item in answer.items]


def _read_item(item: Mapping[str, Any]) -> Scored:
    status, value, reason = item.get("status"), item.get("value"), item.get("reason")
    if status in ("timeout", "error"):
        return Scored.failed(status, str(reason or "the service gave no reason"))
    if status != "ok":
        return Scored.failed("error", f"the service answered with the status {status!r}")
    components = item.get("components") or {"remote": value}
    if not _is_number(value):
        return Scored.failed("error", f"the service's value is {value!r}")
    if not isinstance(components, dict) or not all(map(_is_number, components.values())):
        return Scored.failed("error", f"the service's components are {components!r}")
    numbers = {name: float(number) for name, number in components.items()}
    seconds = item.get("scoring_s")
    return Scored(Reward(float(value), numbers, "ok"), None, float(seconds) if _is_number(seconds) else 0.0)


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
