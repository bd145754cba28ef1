"""File operations of which a crash leaves either the old state or the new one, for local paths and fsspec URLs.

A URL is a `UPath`, which has pathlib's interface, so both are annotated `Path`. Local files are synced to disk and
renamed into place; a remote object is one write, which object stores show whole or not at all.

An `OSError` (no space, no permission) passes through every function here. What a remote store fails at is tried again
for some seconds (`stores.py`), then it is a StorageError, an OSError too, that names the object. Remote files are read,
written and looked for through these functions, not by `UPath`'s methods, which do not.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from rayrlhf.data.stores import as_path as as_path
from rayrlhf.data.stores import insist, insist_on_writing, kind_of, place_of
from rayrlhf.data.stores import is_local as is_local

DIGESTS = "digests.json"
_CHUNK_BYTES = 1 << 20


def write_durably(path: Path, data: bytes) -> None:
    """Replace the file's content in one step; parents are made. Interrupted, it leaves at most `<name>.partial`."""
    if not is_local(path):
        insist_on_writing(path, lambda fs, name: fs.pipe_file(name, data))
        return
    _make_folder(path.parent)
    new = path.with_name(f"{path.name}.partial")
    with new.open("wb") as file:
        _write_and_sync(file, data)
    os.replace(new, path)
    sync_folder(path.parent)


def append_durably(path: Path, data: bytes) -> None:
    """Add to the end of a local file; parents are made. After an error, part of `data` may be at its end."""
    assert is_local(path), "objects cannot grow"
    _make_folder(path.parent)
    is_new = not path.exists()
    with path.open("ab") as file:
        _write_and_sync(file, data)
    if is_new:
        sync_folder(path.parent)


def make_folder(path: Path) -> None:
    """Make a local folder and its parents; in a store a folder is there with its first file."""
    if is_local(path):
        _make_folder(path)


def remove_file(path: Path) -> None:
    """Remove a file; one that is absent stays absent."""
    with suppress(FileNotFoundError):
        if is_local(path):
            path.unlink()
        else:
            insist(path, lambda fs, name: fs.rm_file(name))


def remove_tree(path: Path) -> None:
    """Remove a folder with all that is in it; one that is absent stays absent."""
    with suppress(FileNotFoundError):
        if is_local(path):
            shutil.rmtree(path)
        else:
            insist(path, lambda fs, name: fs.rm(name, recursive=True))


def move_folder(path: Path, target: Path) -> None:
    """Give a folder another name; what had that name goes."""
    remove_tree(target)
    if is_local(path):
        path.rename(target)
    else:
        insist(path, lambda fs, name: _move_objects(fs, name, place_of(target)))


def _move_objects(fs: Any, name: str, new: str) -> None:
    """One by one: fsspec's own `mv` of a folder fails where folders are no objects, as in S3."""
    found = fs.find(name)
    fs.copy(found, [new + file.removeprefix(name) for file in found])
    fs.rm(name, recursive=True)


def is_file(path: Path) -> bool:
    """Whether there is a file. `UPath.is_file` says no when the store cannot be reached."""
    return path.is_file() if is_local(path) else kind_of(path) == "file"


def exists(path: Path) -> bool:
    """Whether there is a file or a folder."""
    return path.exists() if is_local(path) else kind_of(path) is not None


def entries(folder: Path) -> list[Path]:
    """What is in a folder now, ordered by name; nothing where there is no folder."""
    try:
        if is_local(folder):
            names = os.listdir(folder)
        else:
            found = insist(folder, lambda fs, name: fs.ls(name, detail=False))
            names = [name.rstrip("/").rpartition("/")[2] for name in found]
    except FileNotFoundError:
        return []
    return [folder / name for name in sorted(names)]


def read_bytes(path: Path) -> bytes:
    """A whole file."""
    return path.read_bytes() if is_local(path) else insist(path, lambda fs, name: bytes(fs.cat_file(name)))


def read_tail(path: Path, size: int) -> bytes:
    """The last `size` bytes of a file; all of a smaller one."""
    if not is_local(path):
        return insist(path, lambda fs, name: bytes(fs.cat_file(name, start=-size)))
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - size))
        return file.read()


def read_folder(folder: Path, suffix: str) -> dict[Path, bytes]:
    """All files of a folder whose names end with `suffix`, ordered by name; remote ones are fetched side by side."""
    paths = [path for path in entries(folder) if path.suffix == suffix]
    if is_local(folder) or not paths:
        return {path: path.read_bytes() for path in paths}
    names = {place_of(path): path for path in paths}
    found = insist(folder, lambda fs, _: fs.cat(list(names)))
    return {names[name]: bytes(found[name]) for name in names}


def digest_file(path: Path) -> tuple[int, str]:
    """Size in bytes and SHA-256 in hexadecimal, without holding the file in memory."""
    if not is_local(path):
        return insist(path, lambda fs, name: _digest(fs.open(name, "rb")))
    return _digest(path.open("rb"))


def describe_file(path: Path) -> dict[str, int | str]:
    """Size and digest as manifests hold them."""
    size, sha256 = digest_file(path)
    return {"bytes": size, "sha256": sha256}


def write_digests(folder: Path) -> None:
    """Note size and digest of each file of a local folder in `digests.json`, by which damage is found later."""
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.name != DIGESTS)
    noted = {path.name: describe_file(path) for path in files}
    write_durably(folder / DIGESTS, json.dumps(noted, indent=1).encode())


@contextmanager
def local_copy(path: Path) -> Iterator[Path]:
    """The file or folder itself where it is local, else a download that lasts as long as the context."""
    if is_local(path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="rayrlhf-") as folder:
        copy = Path(folder) / path.name
        insist(path, lambda fs, name: fs.get(name, str(copy), recursive=True))
        yield copy


@contextmanager
def local_folder(path: Path) -> Iterator[Path]:
    """The folder itself where it is local, else a temporary one whose files are uploaded at the end."""
    if is_local(path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="rayrlhf-") as folder:
        yield Path(folder)
        _upload(Path(folder), path)


@contextmanager
def replaced_folder(path: Path, last: str) -> Iterator[Path]:
    """An empty local folder that takes the place of `path` at the end: by a rename, or by an upload.

    An upload removes and writes the file named `last` first and last: who needs it never sees a part of the folder.
    """
    if is_local(path):
        new = path.with_name(f"{path.name}.partial")
        shutil.rmtree(new, ignore_errors=True)
        make_folder(new)
        yield new
        shutil.rmtree(path, ignore_errors=True)
        new.rename(path)
        return
    with tempfile.TemporaryDirectory(prefix="rayrlhf-") as folder:
        yield Path(folder)
        remove_file(path / last)
        remove_tree(path)
        _upload(Path(folder), path, last)


def _upload(folder: Path, path: Path, last: str = "") -> None:
    """All files of a local folder, the one named `last` after all others."""
    files = [file for file in folder.rglob("*") if file.is_file()]
    for file in sorted(files, key=lambda file: (file.name == last, file)):
        target = path / file.relative_to(folder).as_posix()
        insist_on_writing(target, partial(_put_file, file))


def _put_file(file: Path, fs: Any, name: str) -> None:
    fs.put_file(str(file), name)


def _digest(opened: BinaryIO) -> tuple[int, str]:
    digest, size = hashlib.sha256(), 0
    with opened as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            size += len(chunk)
    return size, digest.hexdigest()


def _make_folder(folder: Path) -> None:
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """A new name is durable only when its folder is."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_and_sync(file: BinaryIO, data: bytes) -> None:
    try:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    except OSError as error:
        error.filename = error.filename or file.name  # the system does not say it of an open file
        raise
