"""Who may do what: bearer tokens in a file, of which only hashes are stored. Tokens are drawn, so one hash is enough.

The file is read again when it changes, so issuing and revoking need no restart.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

from pydantic import AwareDatetime, TypeAdapter, ValidationError

from rayrlhf.access.private_files import alone, read_private, replace_private
from rayrlhf.access.strict import Name, Record, explain
from rayrlhf.config.base import Sha256
from rayrlhf.errors import FeedbackStoreError, RequestRefusedError

Role = Literal["user", "labeller", "admin"]
ROLES: tuple[Role, ...] = ("user", "labeller", "admin")
"""Each may do what those before it may: vote; compare and get tasks; see everybody's numbers."""


class Token(Record):
    """What is stored of a token."""

    sha256: Sha256
    user: Name
    role: Role
    expires_at: AwareDatetime


_TOKENS = TypeAdapter(tuple[Token, ...])


@dataclass
class TokenFile:
    """The tokens of a file; one that does not exist yet has none."""

    path: Path
    _read: tuple[tuple[int, int, int], dict[str, Token]] | None = field(default=None, repr=False)

    def authenticate(self, authorization: str | None, now: datetime) -> Token:
        """The token of an `Authorization` header; the refusal does not tell an unknown token from an expired one."""
        scheme, _, given = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not given.strip():
            raise _refused("a token is expected: Authorization: Bearer …", 401, "missing_token")
        token = self._by_hash().get(_hash(given.strip()))
        if token is None or token.expires_at <= now:
            raise _refused("the token is not valid", 401, "invalid_token")
        return token

    def issue(self, user: str, role: Role, days: float) -> str:
        """A new token, which is shown this once."""
        given = f"rf-{secrets.token_urlsafe(32)}"
        expires_at = datetime.now(UTC) + timedelta(days=days)
        try:
            token = Token(sha256=_hash(given), user=user, role=role, expires_at=expires_at)
        except ValidationError as error:
            raise FeedbackStoreError(explain(error)) from None
        with alone(self.path):
            self._write((*self._tokens(), token))
        return given

    def revoke(self, user: str) -> int:
        """Take all tokens of a user away; how many there were."""
        if not self.path.exists():
            return 0
        with alone(self.path):
            before = self._tokens()
            after = tuple(token for token in before if token.user != user)
            self._write(after)
        return len(before) - len(after)

    def _by_hash(self) -> dict[str, Token]:
        """What is found by a hash says nothing by its timing about the token that was hashed."""
        try:
            found = os.stat(self.path)
        except FileNotFoundError:
            return {}
        state = found.st_mtime_ns, found.st_size, found.st_ino
        if self._read is None or self._read[0] != state:
            self._read = state, {token.sha256: token for token in self._tokens()}
        return self._read[1]

    def _tokens(self) -> tuple[Token, ...]:
        if not self.path.exists():
            return ()
        try:
            return _TOKENS.validate_json(read_private(self.path))
        except ValidationError as error:
            raise FeedbackStoreError(f"{self.path}: not a file of tokens: {explain(error)}") from None

    def _write(self, tokens: tuple[Token, ...]) -> None:
        replace_private(self.path, json.dumps([token.model_dump(mode="json") for token in tokens], indent=2).encode())


def require_role(token: Token, role: Role) -> None:
    """Raise unless the token's role may do what `role` may."""
    if ROLES.index(token.role) < ROLES.index(role):
        raise _refused(f"the role {role} is needed; this token's is {token.role}", 403, "insufficient_role")


def _hash(given: str) -> str:
    return hashlib.sha256(given.encode()).hexdigest()


def _refused(message: str, status: int, code: str) -> RequestRefusedError:
    return RequestRefusedError(message, status=status, code=code)
