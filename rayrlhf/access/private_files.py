"""Small files with secrets: readable by their owner alone, replaced in one step, changed by one process at a time."""

from __future__ import annotations

import fcntl
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rayrlhf.data.durable import make_folder, sync_folder
from rayrlhf.errors import FeedbackStoreError


def read_private(path: Path) -> bytes:
    """The file's content; one that everybody on the machine may read is refused.

    The group may: Kubernetes mounts a secret for a user who is not root with the group's right to read.
    """
    try:
        mode = path.stat().st_mode
        content = path.read_bytes()
    except FileNotFoundError:
        raise FeedbackStoreError(f"{path}: no such file") from None
    except OSError as error:
        raise FeedbackStoreError(f"{path}: cannot be read: {error.strerror}") from None
    if mode & stat.S_IRWXO:
        raise FeedbackStoreError(f"{path}: holds secrets and everybody may read or write it: chmod 600 {path}")
    return content


def replace_private(path: Path, content: bytes) -> None:
    """Write the file with mode 0600 in one step; a crash leaves the old content or the new."""
    make_folder(path.parent)
    new = path.with_name(f"{path.name}.{secrets.token_hex(4)}.partial")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(new, path)
    sync_folder(path.parent)


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Nobody else on this machine is in this context for the same path; a file `<name>.lock` stays beside it."""
    make_folder(path.parent)
    descriptor = os.open(path.with_name(f"{path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
