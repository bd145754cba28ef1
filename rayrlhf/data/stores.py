"""Remote stores (S3, Google Cloud Storage, … through fsspec): their paths, and operations that are tried again.

Knows nothing of what is stored. Which credentials and endpoint a store's client uses, it reads from its process's own
environment; they are in no path. `docs/storage.md` is the page for users.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from rayrlhf.errors import StorageError

if TYPE_CHECKING:
    from upath import UPath

T = TypeVar("T")
RETRY_WAITS_S = (0.5, 1.0, 2.0, 4.0)
"""Before each new attempt at an operation. Most stores' clients make a few attempts of their own each time."""
_ANSWERS = (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError)
"""What a store says about a path, rather than fails at."""
_MISTAKES = (TypeError, ValueError, AttributeError, NotImplementedError, ImportError)


def as_path(text: str) -> Path:
    """The path that a config names: a `UPath` for a URL, else a `Path`. An unknown scheme is a ValueError."""
    scheme, is_url, rest = text.partition("://")
    if not is_url:
        return Path(text)
    if scheme in ("file", "local"):
        return Path(rest)
    from upath import UPath

    return cast(Path, UPath(text.rstrip("/")))


def is_local(path: Path) -> bool:
    """Whether the path is on this machine's file system."""
    return isinstance(path, Path)


def place_of(path: Path) -> str:
    """A remote path as its file system names it: without the scheme."""
    return str(cast("UPath", path).path)


def insist(path: Path, action: Callable[[Any, str], T]) -> T:
    """What `action(file system, path there)` gives for a remote path, tried again while the store fails in passing.

    Raises:
        StorageError: it failed each time, or permission was refused.

    """
    for wait_s in (*RETRY_WAITS_S, None):
        try:
            fs = cast("UPath", path).fs
            fs.invalidate_cache()  # a listing from before may miss what other processes have written since
            return action(fs, place_of(path))
        except (*_ANSWERS, *_MISTAKES):
            raise
        except Exception as error:
            if wait_s is None or isinstance(error, PermissionError):
                raise _storage_error(path, error) from error
            time.sleep(wait_s)
    raise AssertionError("the last attempt returns or raises")


def insist_on_writing(path: Path, write: Callable[[Any, str], Any]) -> None:
    """`insist`, and make the parents where the store has folders. A bucket that is missing is for people to make."""
    try:
        insist(path, write)
    except FileNotFoundError:
        if path.drive:
            raise _no_bucket(path) from None
        path.parent.mkdir(parents=True, exist_ok=True)
        insist(path, write)


def kind_of(path: Path) -> str | None:
    """`file`, `directory`, or None for a remote path where nothing is."""
    try:
        return str(insist(path, lambda fs, name: fs.info(name)["type"]))
    except FileNotFoundError:
        return None


def require_store(folder: Path) -> None:
    """Raise a StorageError where the store of a remote folder, or its bucket, cannot be reached; local ones pass."""
    if is_local(folder):
        return
    try:
        insist(folder, lambda fs, name: fs.ls(name, detail=False))
    except FileNotFoundError:  # nothing has been written there yet, or there is no bucket
        if folder.drive and not insist(folder, lambda fs, _: fs.exists(folder.drive)):
            raise _no_bucket(folder) from None


def arrow_filesystem(path: Path) -> Any:
    """The `pyarrow.fs.FileSystem` of a remote path, for tools that take one with `place_of`: the same client."""
    from pyarrow.fs import FSSpecHandler, PyFileSystem

    return PyFileSystem(FSSpecHandler(cast("UPath", path).fs))


def _no_bucket(path: Path) -> StorageError:
    return StorageError(errno.ENOENT, f"there is no bucket {path.drive!r}", str(path))


def _storage_error(path: Path, error: Exception) -> StorageError:
    number = getattr(error, "errno", None) or errno.EIO
    return StorageError(number, f"{str(error).strip() or 'no message'} ({type(error).__name__})", str(path))
