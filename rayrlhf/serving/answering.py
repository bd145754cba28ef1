"""Answers and their ids: what the policy writes is kept and signed before a client learns its id. No Ray in here.

Policies.parts ──▶ the version, then events ──▶ begin: another replica is asked while nothing was sent
                                            ──▶ Transcript: the text of each choice ──▶ response ids

"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

from starlette.concurrency import run_in_threadpool

from rayrlhf.errors import RequestRefusedError, RoleFailedError
from rayrlhf.feedback.service import FeedbackService, Origin
from rayrlhf.types import Message

DONE = "data: [DONE]\n\n"
ATTEMPTS = 5
"""Of finding a replica; of those that die of a request, two."""
_SAMPLING = (
    "temperature", "top_p", "top_k", "min_p", "max_tokens", "max_completion_tokens", "seed", "n", "stop",
    "frequency_penalty", "presence_penalty", "repetition_penalty",
)  # fmt: skip


class ReplicaLostError(RoleFailedError):
    """The replica that was answering is gone; another one can be asked."""


class Policies(Protocol):
    """The policies that serve, each in a slot."""

    @property
    def slots(self) -> Sequence[str]:
        """Those that serve now."""
        ...

    def slot_of(self, user: str) -> str:
        """Whose answers a user gets: always the same one's, as long as the same ones serve."""
        ...

    def parts(self, kind: str, body: Mapping[str, Any], slot: str) -> AsyncGenerator[Any, None]:
        """`{"version": n}`, then server-sent events (str), or one response (dict); an error is `{"error": …}`.

        Raises:
            ReplicaLostError: at any point.
            RequestRefusedError: there is too much to do.

        """
        ...


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked, by whom, and what of it is remembered."""

    kind: str
    body: Mapping[str, Any]
    conversation: tuple[Message, ...]
    user: str
    slot: str

    def origin(self, version: int) -> Origin:
        """Where an answer to it by a version comes from."""
        sampling = {key: self.body[key] for key in _SAMPLING if self.body.get(key) is not None}
        if self.kind != "chat":
            sampling["endpoint"] = self.kind
        return Origin(version, str(self.body["model"]), sampling, self.user)


@dataclass(frozen=True, slots=True)
class Begun:
    """An answer of which something is there."""

    version: int
    first: Any
    rest: AsyncGenerator[Any, None]


async def begin(policies: Policies, question: Question) -> Begun:
    """Ask until a replica has begun to answer.

    Raises:
        RequestRefusedError: the request is wrong, or no replica could answer.

    """
    taken = 0
    for attempt in range(ATTEMPTS):
        parts = policies.parts(question.kind, question.body, question.slot)
        head = None
        try:
            head = await anext(parts)
            first = head if "error" in head else await anext(parts)
        except (ReplicaLostError, StopAsyncIteration):
            # A request that replicas die of must not be given to all of them.
            taken += head is not None
            if taken > 1:
                break
            await asyncio.sleep(0.1 * 2**attempt)
            continue
        if isinstance(first, dict) and "error" in first:
            await parts.aclose()
            raise _refused(first["error"])
        return Begun(int(head["version"]), first, parts)
    raise RequestRefusedError("no replica of the policy could answer", 503, "policy_unavailable", retry_after_s=5)


async def whole(service: FeedbackService, policies: Policies, question: Question) -> tuple[dict[str, Any], int]:
    """A response that is not streamed, with its ids; and the version that wrote it."""
    begun = await begin(policies, question)
    response = dict(begun.first)
    with suppress(ReplicaLostError):  # what was asked for is here
        async for _ in begun.rest:
            pass
    texts = [_text_of(choice) for choice in sorted(response["choices"], key=lambda choice: int(choice["index"]))]
    return response | await _sign(service, question, begun.version, texts), begun.version


async def events(service: FeedbackService, question: Question, begun: Begun) -> AsyncIterator[str]:
    """The stream as it comes; the ids in a last event of their own. One that breaks ends with an error event."""
    transcript = Transcript()
    try:
        async for event in _one_by_one(begun):
            if event == DONE:
                continue
            transcript.add(event)
            yield event
        signed = await _sign(service, question, begun.version, transcript.texts)
        yield _event(transcript.frame | {"choices": []} | signed)
        yield DONE
    except Exception as error:  # the status line is sent: an event is all that can still be said
        lost = isinstance(error, ReplicaLostError)
        message = "the replica that was answering is gone; ask again" if lost else "the answer could not be finished"
        if not lost:
            logging.getLogger(__name__).exception("a stream broke")
        yield _event({"error": {"message": message, "type": "server_error", "code": "stream_broken"}})


@dataclass
class Transcript:
    """What a stream has said so far."""

    frame: dict[str, Any] = field(default_factory=dict)
    """The fields that all of a stream's events share."""
    _said: defaultdict[int, list[str]] = field(default_factory=lambda: defaultdict(list))

    def add(self, event: str) -> None:
        """Take an event in.

        Raises:
            ReplicaLostError: the event is an error.

        """
        chunk = json.loads(event.removeprefix("data: "))
        if "error" in chunk:
            raise ReplicaLostError(f"the engine ended the stream: {chunk['error']}")
        self.frame = {key: chunk[key] for key in ("id", "object", "created", "model") if key in chunk}
        for choice in chunk["choices"]:
            self._said[int(choice["index"])].append(_text_of(choice))

    @property
    def texts(self) -> list[str]:
        """Each choice, in the order of their indices."""
        return ["".join(self._said[index]) for index in sorted(self._said)]


async def _one_by_one(begun: Begun) -> AsyncIterator[str]:
    for event in _split(begun.first):
        yield event
    async for part in begun.rest:
        for event in _split(part):
            yield event


def _split(part: Any) -> list[str]:
    """Events, of which an engine may send several at once."""
    if not isinstance(part, str):
        return [_event(part)]
    return [f"{event}\n\n" for event in part.split("\n\n") if event]


async def _sign(
    service: FeedbackService, question: Question, version: int, texts: Sequence[str]
) -> dict[str, dict[str, Any]]:
    origin = question.origin(version)
    ids = [await run_in_threadpool(service.record_answer, question.conversation, text, origin) for text in texts]
    return {"rayrlhf": {"policy_version": version, "response_ids": ids}}


def _text_of(choice: Mapping[str, Any]) -> str:
    said = choice.get("message") or choice.get("delta")
    return str((said.get("content") if said is not None else choice.get("text")) or "")


def _event(content: Mapping[str, Any]) -> str:
    return f"data: {json.dumps(content)}\n\n"


def _refused(error: Mapping[str, Any]) -> RequestRefusedError:
    status = error.get("code")
    known = status if isinstance(status, int) and 400 <= status < 600 else 500
    return RequestRefusedError(str(error.get("message")), known, str(error.get("type")))
