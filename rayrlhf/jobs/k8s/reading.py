"""Finding manifests: files and folders, streams of several documents, and what kustomize makes of a folder.

A patch is a part of a manifest, so it is told apart: what it lacks is no mistake. The whole is what kustomize builds.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from shutil import which
from typing import Any

import yaml

from rayrlhf.errors import ConfigError
from rayrlhf.jobs.k8s.node import Node, join
from rayrlhf.jobs.k8s.yaml_text import SAFE_LOADER

KUSTOMIZATION = "kustomization.yaml"
BUILD_S = 60


@dataclass(frozen=True, slots=True)
class Document:
    """One manifest, or a part of one."""

    source: str
    manifest: Node
    is_patch: bool = False

    @property
    def name(self) -> str:
        """Kind and name, for people."""
        metadata = self.manifest["metadata"]
        return f"{self.manifest['kind'].text} {metadata['name'].text or metadata['generateName'].text}".strip()


@dataclass(frozen=True, slots=True)
class ManifestSet:
    """Documents that belong together. `is_whole`: nothing that they need may be missing; `is_built`: by kustomize."""

    documents: Sequence[Document]
    is_whole: bool
    is_built: bool = False


def read_sets(paths: Sequence[str]) -> Iterator[ManifestSet]:
    """Everything below the paths. A folder with a kustomization is read as files and as what it builds.

    Raises:
        ConfigError: a path is not there, or a file is no YAML.

    """
    for path in paths:
        if path == "-":
            yield ManifestSet(list(_documents(sys.stdin.read(), "-")), is_whole=True)
            continue
        place = Path(path)
        if not place.exists():
            raise ConfigError(f"{path}: no such file or folder")
        if place.is_file():
            yield ManifestSet(list(_file(place)), is_whole=False)
            continue
        for folder in sorted({file.parent for file in _yaml_files(place)}):
            yield from _folder(folder)


def can_build() -> bool:
    """Whether kubectl is here, whose kustomize builds folders."""
    return which("kubectl") is not None


def _yaml_files(folder: Path) -> list[Path]:
    return sorted(file for pattern in ("*.yaml", "*.yml") for file in folder.rglob(pattern))


def _folder(folder: Path) -> Iterator[ManifestSet]:
    files = [file for file in _yaml_files(folder) if file.parent == folder]
    kustomization = _kustomization(folder)
    documents = [document for file in files for document in _file(file)]
    yield ManifestSet(documents, is_whole=kustomization is None)
    if kustomization is not None and kustomization.get("kind") != "Component" and can_build():
        yield ManifestSet(list(_documents(build(folder), f"{folder} (built)")), is_whole=True, is_built=True)


def _kustomization(folder: Path) -> dict[str, Any] | None:
    file = folder / KUSTOMIZATION
    found = yaml.safe_load(file.read_text(encoding="utf-8")) if file.is_file() else None
    return found if isinstance(found, dict) else None


def build(folder: Path) -> str:
    """What `kubectl kustomize` makes of a folder; needs no cluster.

    Raises:
        ConfigError: it cannot be built, and why.

    """
    done = subprocess.run(
        ["kubectl", "kustomize", str(folder)], capture_output=True, text=True, timeout=BUILD_S, check=False
    )
    if done.returncode != 0:
        raise ConfigError(f"{folder}: kubectl kustomize: {done.stderr.strip()}")
    return done.stdout


def _file(file: Path) -> Iterator[Document]:
    if file.name == KUSTOMIZATION:
        return
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: cannot be read: {error}") from None
    yield from _documents(text, str(file), is_patch=file.resolve() in _patches_of(file.parent))


def _patches_of(folder: Path) -> set[Path]:
    """The files that a kustomization in the folder, or up to two above it, names as patches."""
    found: set[Path] = set()
    for home in (folder, *folder.resolve().parents[:2]):
        for patch in (_kustomization(home) or {}).get("patches", []):
            if isinstance(patch, dict) and "path" in patch:
                found.add((home / patch["path"]).resolve())
    return found


def _documents(text: str, source: str, *, is_patch: bool = False) -> Iterator[Document]:
    try:
        documents = list(yaml.load_all(text, Loader=SAFE_LOADER))
    except yaml.YAMLError as error:
        raise ConfigError(f"{source}: not YAML: {' '.join(str(error).split())}") from None
    for value in documents:
        if value is None or (isinstance(value, list) and is_patch):
            continue  # nothing, or operations: kustomize finds what is wrong with those
        if not isinstance(value, dict) or "kind" not in value or "apiVersion" not in value:
            raise ConfigError(f"{source}: a manifest with apiVersion and kind is expected, found {str(value)[:60]!r}")
        manifest = Node(value)
        yield Document(source, manifest, is_patch)
        yield from _inside(Document(source, manifest, is_patch))


def _inside(document: Document) -> Iterator[Document]:
    """Manifests that a ConfigMap carries, for a pod that makes them."""
    if document.manifest["kind"].text != "ConfigMap":
        return
    for name, text in document.manifest["data"].entries():
        if not name.endswith(".json"):
            continue
        try:
            value = json.loads(text.text)
        except ValueError:
            continue
        if isinstance(value, dict) and "apiVersion" in value and "kind" in value:
            yield Document(document.source, Node(value, join("data", name)), document.is_patch)
