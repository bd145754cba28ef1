"""Response ids that only the service can make: feedback comes back with one, and is about that very text.

    rsp1.<key id>.<nonce and policy version, sealed>.<digest of conversation and answer>.<signature>

The version is sealed (XOR with a keyed stream of the nonce), because people who compare two answers must not read off
which policy wrote which; the digest is keyed, so that an id does not give away a short text. All of it is HMAC-SHA-256
under one secret with a different prefix for each use. The newest key signs; older ones still verify until they are
taken out.
"""

from __future__ import annotations

import hmac
import json
import os
import re
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError

from rayrlhf.access.private_files import alone, read_private, replace_private
from rayrlhf.access.strict import Record, explain
from rayrlhf.data.durable import make_folder, sync_folder
from rayrlhf.errors import FeedbackStoreError, RequestRefusedError
from rayrlhf.feedback.records import Turn
from rayrlhf.runtime.environment import feedback_keys

_NONCE_BYTES = 16
_VERSION_BYTES = 8
_ID = re.compile(r"rsp1\.([A-Za-z0-9_-]{1,16})\.([A-Za-z0-9_-]{32})\.([A-Za-z0-9_-]{43})\.([A-Za-z0-9_-]{43})")


class SigningKey(Record):
    """A secret of at least 32 bytes, and the name by which ids say that it signed them."""

    id: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,16}$")]
    secret: Annotated[str, Field(pattern=r"^([0-9a-f]{2}){32,}$", repr=False)]

    @classmethod
    def draw(cls) -> SigningKey:
        """A new key from the operating system's randomness."""
        return cls(id=f"k{secrets.token_hex(4)}", secret=secrets.token_hex(32))

    def mac(self, purpose: str, message: bytes) -> bytes:
        """HMAC-SHA-256; what is made for one purpose is worth nothing for another."""
        return hmac.digest(bytes.fromhex(self.secret), purpose.encode() + b"\0" + message, "sha256")


_KEYS = TypeAdapter(Annotated[tuple[SigningKey, ...], Field(min_length=1)])


@dataclass(frozen=True, slots=True)
class KeyRing:
    """The keys, newest first."""

    keys: tuple[SigningKey, ...]

    def sign(self, conversation: Sequence[Turn], text: str, policy_version: int, nonce: bytes | None = None) -> str:
        """A response id for an answer; another one each time, unless a nonce (16 bytes) is given."""
        key = self.keys[0]
        nonce = nonce or secrets.token_bytes(_NONCE_BYTES)
        sealed = nonce + _sealed(key, nonce, policy_version.to_bytes(_VERSION_BYTES, "big"))
        unsigned = f"rsp1.{key.id}.{_encode(sealed)}.{_content_digest(key, conversation, text)}"
        return f"{unsigned}.{_signature(key, unsigned)}"

    def policy_version(self, response_id: str) -> int:
        """The version that an id carries; a forged or malformed id is refused."""
        key, sealed, _ = self._verified(response_id)
        nonce, version = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
        return int.from_bytes(_sealed(key, nonce, version), "big")

    def covers(self, response_id: str, conversation: Sequence[Turn], text: str) -> bool:
        """Whether the id was signed for this very conversation and answer."""
        key, _, content = self._verified(response_id)
        return hmac.compare_digest(content, _content_digest(key, conversation, text))

    def _verified(self, response_id: str) -> tuple[SigningKey, bytes, str]:
        parts = _ID.fullmatch(response_id)
        if parts is None:
            raise _refused("malformed: it is not an id that this service gives")
        key = next((key for key in self.keys if key.id == parts[1]), None)
        unsigned, _, signature = response_id.rpartition(".")
        # Signatures are compared as text: base64 has several spellings of the same bytes, and an id has one.
        if key is None or not hmac.compare_digest(signature, _signature(key, unsigned)):
            raise _refused("not signed by this service, or by a key that it no longer has")
        return key, urlsafe_b64decode(parts[2]), parts[3]


def open_keys(path: Path) -> KeyRing:
    """The keys of the environment, else of the file, which is made (mode 0600) on first use."""
    from_environment = feedback_keys()
    if from_environment is not None:
        pairs = [item.partition(":") for item in from_environment.split(",")]
        return _ring([{"id": name.strip(), "secret": secret.strip()} for name, _, secret in pairs], "the environment")
    if not path.exists():
        _create(path)
    try:
        found = json.loads(read_private(path))
    except ValueError:
        raise FeedbackStoreError(f"{path}: not a file of signing keys: not JSON") from None
    return _ring(found, str(path))


def rotate_keys(path: Path) -> KeyRing:
    """Put a new key in front; ids that older ones have signed stay valid."""
    if feedback_keys() is not None:
        raise FeedbackStoreError("the keys are in the environment: put a new one in front there")
    with alone(path):
        ring = KeyRing((SigningKey.draw(), *open_keys(path).keys))
        replace_private(path, _serialised(ring))
    return ring


def _ring(found: object, source: str) -> KeyRing:
    try:
        return KeyRing(_KEYS.validate_json(json.dumps(found)))
    except ValidationError as error:
        wanted = "a list of {id, secret}, each secret at least 64 hexadecimal digits (openssl rand -hex 32)"
        raise FeedbackStoreError(f"{source}: not signing keys: {explain(error)}; {wanted} is expected") from None


def _create(path: Path) -> None:
    """Of several processes that get here at once, one key wins: a link, unlike a rename, never replaces a file."""
    make_folder(path.parent)
    new = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    replace_private(new, _serialised(KeyRing((SigningKey.draw(),))))
    try:
        os.link(new, path)
    except FileExistsError:
        pass
    finally:
        new.unlink()
        sync_folder(path.parent)


def _serialised(ring: KeyRing) -> bytes:
    return json.dumps([key.model_dump() for key in ring.keys], indent=2).encode() + b"\n"


def _content_digest(key: SigningKey, conversation: Sequence[Turn], text: str) -> str:
    content = [*([turn.role, turn.content] for turn in conversation), text]
    return _encode(key.mac("content", json.dumps(content, separators=(",", ":")).encode()))


def _signature(key: SigningKey, unsigned: str) -> str:
    return _encode(key.mac("response id", unsigned.encode()))


def _sealed(key: SigningKey, nonce: bytes, version: bytes) -> bytes:
    """Its own inverse."""
    return bytes(a ^ b for a, b in zip(version, key.mac("version", nonce), strict=False))


def _encode(data: bytes) -> str:
    return urlsafe_b64encode(data).decode().rstrip("=")


def _refused(what: str) -> RequestRefusedError:
    return RequestRefusedError(f"response_id: {what}", status=400, code="invalid_response_id")
