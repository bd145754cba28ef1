"""Which files a model was exported with, and whether they are still those: found out before any of them is loaded.

`digests.json`, written last by an export, has size and SHA-256 of every other file. Its own digest therefore stands for
the whole model. Knows nothing of what is in the files.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from rayrlhf.data.durable import DIGESTS, describe_file, digest_file

LOADED = frozenset({".safetensors", ".json", ".jinja", ".model", ".txt"})
"""Suffixes of what loaders read in a model's directory."""
PICKLES = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"})
"""Suffixes of weights whose loading can run code."""
_READERS = 8


def damage_of(folder: Path) -> str | None:
    """What is not as `digests.json` in a local directory notes it, in words; None where all is, or there is none."""
    if not (folder / DIGESTS).is_file():
        return None
    noted = noted_files(folder)
    if noted is None:
        return f"{folder / DIGESTS}: damaged: not a list of files with their digests"
    found = [name for name in noted if (folder / name).is_file()]
    with ThreadPoolExecutor(_READERS) as readers:
        described = dict(zip(found, readers.map(lambda name: describe_file(folder / name), found), strict=True))
    for name, wanted in noted.items():
        if name not in described:
            return f"{folder / name}: is missing, and was exported ({DIGESTS} lists it)"
        if described[name] != wanted:
            return f"{folder / name}: not what was exported ({DIGESTS} has another digest)"
    return unlisted_file(folder, noted.keys())


def unlisted_file(folder: Path, noted: Any) -> str | None:
    """The first file that a loader would read and that was not exported, in words."""
    for path in sorted(folder.iterdir()):
        if path.suffix in LOADED and path.name not in noted and path.name != DIGESTS and path.is_file():
            return f"{path}: was not exported ({DIGESTS} does not list it), and would be loaded"
    return None


def noted_files(folder: Path) -> dict[str, Any] | None:
    """What `digests.json` lists; None where it is no such list. No name leads out of the directory."""
    try:
        noted = json.loads((folder / DIGESTS).read_bytes())
    except (ValueError, RecursionError):
        return None
    right = isinstance(noted, dict) and all(
        isinstance(about, dict) and about.keys() == {"bytes", "sha256"} and name == Path(name).name
        for name, about in noted.items()
    )
    return noted if right else None


def model_digest(folder: Path) -> str | None:
    """The digest that stands for an exported model: that of its `digests.json`."""
    return digest_file(folder / DIGESTS)[1] if (folder / DIGESTS).is_file() else None


def pickles_of(folder: Path) -> list[str]:
    """Names of files that would be unpickled, if anything loaded them."""
    return sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES and path.is_file())
