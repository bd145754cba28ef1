"""A service to test with, answers in it, and posts about them."""

from __future__ import annotations

import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from rayrlhf.feedback.records import Comparison, Correction, Flag, Rating, Thumb
from rayrlhf.feedback.service import FeedbackService, Origin, open_service

START = datetime(2026, 3, 1, 12, tzinfo=UTC)


class Clock:
    """Time that passes when a test says so."""

    def __init__(self):
        self.now = START

    def __call__(self):
        return self.now

    def advance(self, **time):
        self.now += timedelta(**time)


def service_at(store, folder, clock=None, **settings):
    opened = open_service(store, keys=folder / "signing-keys.json", tokens=folder / "tokens.json")
    changed = settings | ({} if clock is None else {"clock": clock})
    return FeedbackService(replace(opened.store, **changed), opened.keys, opened.tokens)


def ask(service, question="What is the tallest mountain?", *texts, version=1, user="asker"):
    """Record answers to one question; their ids."""
    conversation = [{"role": "user", "content": question}]
    origin = Origin(policy_version=version, model="tiny", sampling={"temperature": 0.7}, user=user)
    return [service.record_answer(conversation, text, origin) for text in texts]


def key():
    return uuid.uuid4().hex


def thumb(response_id, value="up", idempotency_key=None):
    return Thumb(kind="thumb", value=value, response_id=response_id, idempotency_key=idempotency_key or key())


def rating(response_id, value):
    return Rating(kind="rating", value=value, response_id=response_id, idempotency_key=key())


def correction(response_id, text):
    return Correction(kind="correction", text=text, response_id=response_id, idempotency_key=key())


def flag(response_id, reason="untrue", note=""):
    return Flag(kind="flag", reason=reason, note=note, response_id=response_id, idempotency_key=key())


def ranking(response_ids, ranks, **more):
    more = {"idempotency_key": key()} | more
    return Comparison(response_ids=tuple(response_ids), ranks=tuple(ranks), **more)
