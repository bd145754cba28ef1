"""File operations of which a crash leaves either the old state or the new one, for local paths and fsspec URLs.

A URL is a `UPath`, which has pathlib's interface, so both are annotated `Path`. Local files are synced to disk and
renamed into place; a remote object is one write, which object stores show whole or not at all. An `OSError` (no
space, no permission, no connection) passes through every function here.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

if TYPE_CHECKING:
    from upath import UPath

_CHUNK_BYTES = 1 << 20


def as_path(text: str) -> Path:
    """The path that a config names: a `UPath` for a URL, else a `Path`. An unknown scheme is a ValueError."""
    scheme, is_url, rest = text.partition("://")
    if not is_url:
        return Path(text)
    if scheme in ("file", "local"):
        return Path(rest)
    from upath import UPath

    return cast(Path, UPath(text))


def is_local(path: Path) -> bool:
    """Whether the path is on this machine's file system."""
    return isinstance(path, Path)


def write_durably(path: Path, data: bytes) -> None:
    """Replace the file's content in one step; parents are made. Interrupted, it leaves at most `<name>.partial`."""
    if not is_local(path):
        _put(path, data)
        return
    _make_folder(path.parent)
    partial = path.with_name(f"{path.name}.partial")
    with partial.open("wb") as file:
        _write_and_sync(file, data)
    os.replace(partial, path)
    _sync_folder(path.parent)


def append_durably(path: Path, data: bytes) -> None:
    """Add to the end of a local file; parents are made. After an error, part of `data` may be at its end."""
    assert is_local(path), "objects cannot grow"
    _make_folder(path.parent)
    is_new = not path.exists()
    with path.open("ab") as file:
        _write_and_sync(file, data)
    if is_new:
        _sync_folder(path.parent)


def remove_tree(path: Path) -> None:
    """Remove a folder with all that is in it; one that is absent stays absent."""
    with suppress(FileNotFoundError):
        if is_local(path):
            shutil.rmtree(path)
        else:
            _remote(fresh(path)).fs.rm(_remote(path).path, recursive=True)


def fresh(path: Path) -> Path:
    """The same path after its file system has forgotten cached listings: other processes write there too."""
    if not is_local(path):
        _remote(path).fs.invalidate_cache()
    return path


def entries(folder: Path) -> list[Path]:
    """What is in a folder now, ordered by name; nothing where there is no folder."""
    try:
        if is_local(folder):
            names = os.listdir(folder)
        else:
            found = _remote(fresh(folder)).fs.ls(_remote(folder).path, detail=False)
            names = [name.rstrip("/").rpartition("/")[2] for name in found]
    except FileNotFoundError:
        return []
    return [folder / name for name in sorted(names)]


def digest_file(path: Path) -> tuple[int, str]:
    """Size in bytes and SHA-256 in hexadecimal, without holding the file in memory."""
    digest, size = hashlib.sha256(), 0
    with fresh(path).open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            size += len(chunk)
    return size, digest.hexdigest()


@contextmanager
def local_copy(path: Path) -> Iterator[Path]:
    """The file or folder itself where it is local, else a download that lasts as long as the context."""
    if is_local(path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="rayrlhf-") as folder:
        copy = Path(folder) / path.name
        _remote(fresh(path)).fs.get(_remote(path).path, str(copy), recursive=True)
        yield copy


@contextmanager
def local_folder(path: Path) -> Iterator[Path]:
    """The folder itself where it is local, else a temporary one whose files are uploaded at the end."""
    if is_local(path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="rayrlhf-") as folder:
        yield Path(folder)
        for file in sorted(Path(folder).rglob("*")):
            if file.is_file():
                _remote(path).fs.put_file(str(file), f"{_remote(path).path}/{file.relative_to(folder)}")


def _remote(path: Path) -> UPath:
    return cast("UPath", path)


def _put(path: Path, data: bytes) -> None:
    try:
        path.write_bytes(data)
    except FileNotFoundError:  # not an object store: it has folders, and this one is missing
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def _make_folder(folder: Path) -> None:
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    """A new name is durable only when its folder is."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_and_sync(file: BinaryIO, data: bytes) -> None:
    file.write(data)
    file.flush()
    os.fsync(file.fileno())
