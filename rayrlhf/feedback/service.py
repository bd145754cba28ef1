"""The store, the keys and the tokens as one: what an ingress holds. Calls block; no HTTP in here.

record_answer ──▶ a signed response id, for the client
feedback, comparison ──▶ the id is verified, then its text, then the post is stored
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from pydantic import ValidationError

from rayrlhf.access.strict import explain
from rayrlhf.access.tokens import TokenFile
from rayrlhf.errors import DataError, RequestRefusedError
from rayrlhf.feedback.database import folder_of
from rayrlhf.feedback.records import Answer, Comparison, Correction, Flag, Rating, Receipt, Thumb, Turn
from rayrlhf.feedback.signing import KeyRing, open_keys
from rayrlhf.feedback.store import FeedbackStore, open_store
from rayrlhf.types import Message


@dataclass(frozen=True, slots=True)
class Origin:
    """Which policy wrote an answer, how, and for whom."""

    policy_version: int
    model: str
    sampling: Mapping[str, Any]
    user: str


@dataclass(frozen=True)
class FeedbackService:
    """What answers are recorded with and feedback is taken by."""

    store: FeedbackStore
    keys: KeyRing
    tokens: TokenFile

    def record_answer(self, conversation: Sequence[Message], text: str, origin: Origin) -> str:
        """Sign and store an answer; give its id to the client only after this returns."""
        try:
            turns = tuple(Turn.model_validate(turn) for turn in conversation)
            answer = Answer(
                response_id=self.keys.sign(turns, text, origin.policy_version),
                conversation=turns,
                text=text,
                policy_version=origin.policy_version,
                model=origin.model,
                sampling=dict(origin.sampling),
                user=origin.user,
                at=self.store.clock(),
            )
        except ValidationError as error:
            raise DataError(f"an answer that cannot be stored: {explain(error)}") from None
        self.store.record_answer(answer)
        return answer.response_id

    def feedback(self, post: Thumb | Rating | Correction | Flag, user: str) -> Receipt:
        """Verify the response id, and store the vote."""
        self._verify([post.response_id])
        return self.store.add_feedback(post, user)

    def comparison(self, post: Comparison, user: str) -> Receipt:
        """Verify the response ids, and store the ranks."""
        self._verify(post.response_ids)
        return self.store.add_comparison(post, user)

    def close(self) -> None:
        """Close the store."""
        self.store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _verify(self, response_ids: Sequence[str]) -> None:
        """All signatures before any look-up, so that forged ids cost no database work."""
        for response_id in response_ids:
            self.keys.policy_version(response_id)
        for response_id in response_ids:
            answer = self.store.answer(response_id)
            if answer is None:
                raise RequestRefusedError("no such answer is stored", status=404, code="unknown_response")
            if not self.keys.covers(response_id, answer.conversation, answer.text):
                raise RequestRefusedError(
                    "response_id: signed for another text than the one that is stored under it",
                    status=409,
                    code="response_mismatch",
                )


def open_service(store: str, *, keys: Path | None = None, tokens: Path | None = None) -> FeedbackService:
    """Open a store with its keys and tokens, which are by default in files beside it."""
    folder = folder_of(store)
    opened = open_store(store)
    return FeedbackService(
        store=opened,
        keys=open_keys(keys or folder / "signing-keys.json"),
        tokens=TokenFile(tokens or folder / "tokens.json"),
    )
