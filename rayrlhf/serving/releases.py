"""Releases: the policies that a service has put out, numbered once and for all, and which of them serve now.

    runs/service/releases.json     every release with its files' digests; what serves; the canary
    runs/service/releases/0007/    its files: hard links where possible, so that an export that takes the place of the
                                   model later does not take it from the service
    runs/service/events.jsonl      what became of which, when and why

A release's number is the `policy_version` that its answers carry. Knows nothing of Ray: replicas, the ingress and the
command line all read it here.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, Field, ValidationError
from safetensors import SafetensorError, safe_open

from rayrlhf.access.private_files import alone
from rayrlhf.access.strict import Record, explain
from rayrlhf.config.base import Sha256
from rayrlhf.data.durable import DIGESTS, describe_file, digest_file, replaced_folder, write_durably
from rayrlhf.data.model_files import unlisted_file
from rayrlhf.errors import ReleaseError
from rayrlhf.observability.events import EventLog

Slot = Literal["a", "b"]
_KEPT_BY_THE_ENGINE = ("config.json", "generation_config.json", "tokenizer*", "special_tokens_map.json", "*.jinja")
"""A running engine takes other weights; what is in these files it has read once."""


class ModelFile(Record):
    """One file of a model."""

    bytes: Annotated[int, Field(ge=0)]
    sha256: Sha256


class Release(Record):
    """One policy that was put out."""

    version: Annotated[int, Field(ge=1)]
    model: str
    """Its directory, which is the service's own, as all nodes see it."""
    source: str
    """Where it came from."""
    files: dict[str, ModelFile]
    shape: str
    """Equal for models that can take each other's place in a running engine."""
    created_at: AwareDatetime


class Serving(Record):
    """What a slot serves. `share` of the users get it; 1 is everybody."""

    slot: Slot
    version: int
    share: Annotated[float, Field(gt=0, le=1)] = 1.0


class Ledger(Record):
    """The whole file."""

    releases: tuple[Release, ...] = ()
    primary: Serving | None = None
    canary: Serving | None = None

    def release(self, version: int) -> Release:
        """The release of a number.

        Raises:
            ReleaseError: there is none.

        """
        found = next((release for release in self.releases if release.version == version), None)
        if found is None:
            raise ReleaseError(f"there is no release {version}; `rayrlhf release list` shows those there are")
        return found

    @property
    def slots(self) -> dict[Slot, Serving]:
        """What is served, by slot."""
        return {serving.slot: serving for serving in (self.primary, self.canary) if serving is not None}

    @property
    def free_slot(self) -> Slot:
        """The slot that does not serve everybody."""
        return "b" if self.primary is not None and self.primary.slot == "a" else "a"


@dataclass(frozen=True, slots=True)
class ReplicaState:
    """What a replica says of itself."""

    slot: Slot
    version: int
    refused: int | None
    """A release that it did not take, and why not."""
    reason: str


@dataclass(frozen=True, slots=True)
class ReleaseBook:
    """The ledger of the service in a directory."""

    directory: Path

    @property
    def path(self) -> Path:
        """The file."""
        return self.directory / "releases.json"

    @property
    def events(self) -> EventLog:
        """What happened."""
        return EventLog(self.directory / "events.jsonl", show=print)

    def read(self) -> Ledger:
        """The ledger; an empty one where nothing was released yet.

        Raises:
            ReleaseError: the file is damaged.

        """
        try:
            return Ledger.model_validate_json(self.path.read_bytes())
        except FileNotFoundError:
            return Ledger()
        except ValidationError as error:
            raise ReleaseError(f"{self.path}: not a list of releases: {explain(error)}") from None

    @contextmanager
    def alone(self) -> Iterator[None]:
        """One process at a time changes a service."""
        self.directory.mkdir(parents=True, exist_ok=True)
        with alone(self.path):
            yield

    def write(self, ledger: Ledger) -> Ledger:
        """Replace the file; call it inside `alone`."""
        write_durably(self.path, ledger.model_dump_json(indent=1).encode())
        return ledger

    def register(self, model: Path) -> Release:
        """Number a model and keep its files, inside `alone`; the same files from the same place keep their number.

        Raises:
            ReleaseError: it is not a model, or is damaged.

        """
        ledger, files = self.read(), describe_model(model)
        for release in ledger.releases:
            if release.source == str(model) and release.files == files:
                return release
        version = max((release.version for release in ledger.releases), default=0) + 1
        kept = self.directory / "releases" / f"{version:04d}"
        release = Release(
            version=version,
            model=str(kept),
            source=str(model),
            files=files,
            shape=shape_of(model),
            created_at=datetime.now(UTC),
        )
        _keep(model, kept, files)
        check_files(release)
        self.write(ledger.model_copy(update={"releases": (*ledger.releases, release)}))
        return release


def _keep(model: Path, kept: Path, files: Mapping[str, ModelFile]) -> None:
    with replaced_folder(kept, last="config.json") as new:
        for name in files:
            try:
                os.link(model / name, new / name)
            except OSError:  # another file system, or one without hard links
                shutil.copyfile(model / name, new / name)


def describe_model(model: Path) -> dict[str, ModelFile]:
    """Size and digest of all files; those that the export noted must be what it noted.

    Raises:
        ReleaseError: not a directory with `config.json` and safetensors, or a file is damaged.

    """
    if not (model / "config.json").is_file() or not list(model.glob("*.safetensors")):
        raise ReleaseError(f"{model}: not a model: a directory with config.json and *.safetensors is expected")
    paths = sorted(path for path in model.iterdir() if path.is_file() and path.name != DIGESTS)
    files = {path.name: ModelFile.model_validate(describe_file(path)) for path in paths}
    if (model / DIGESTS).is_file():
        try:
            noted = {name: ModelFile.model_validate(file) for name, file in _read_json(model / DIGESTS).items()}
        except ValidationError as error:
            raise ReleaseError(f"{model / DIGESTS}: damaged: {explain(error)}") from None
        for name, file in noted.items():
            if files.get(name) != file:
                raise ReleaseError(f"{model / name}: not what was exported ({DIGESTS} has another digest)")
        if (extra := unlisted_file(model, noted)) is not None:
            raise ReleaseError(extra)
    return files


def check_files(release: Release) -> None:
    """Compare the files with what was registered.

    Raises:
        ReleaseError: names the first file that is missing or differs.

    """
    for name, file in release.files.items():
        path = Path(release.model) / name
        try:
            found = ModelFile.model_validate(describe_file(path))
        except OSError as error:
            raise ReleaseError(f"release {release.version}: {path}: {error.strerror or error}") from None
        if found != file:
            raise ReleaseError(f"release {release.version}: {path}: not what was released (another digest)")


def shape_of(model: Path) -> str:
    """A digest of what must be equal for a running engine to take the weights: tensors, config and tokenizer.

    Raises:
        ReleaseError: a weight file has no readable header.

    """
    seen = hashlib.sha256()
    for pattern in _KEPT_BY_THE_ENGINE:
        for path in sorted(model.glob(pattern)):
            seen.update(f"{path.name}\0{digest_file(path)[1]}\0".encode())
    tensors = {name: about for path in model.glob("*.safetensors") for name, about in _header(path).items()}
    seen.update(json.dumps(tensors, sort_keys=True).encode())
    return seen.hexdigest()


def _header(path: Path) -> dict[str, Any]:
    """Dtypes and shapes by name. With numpy, so without torch; no tensor is read."""
    try:
        with safe_open(path, framework="numpy") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (it is not a mapping)
            return {name: [found.get_dtype(), found.get_shape()] for name, found in slices.items()}
    except SafetensorError as error:
        raise ReleaseError(f"{path}: damaged: not a whole safetensors file ({error})") from None


def _read_json(path: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ReleaseError(f"{path}: damaged: not a JSON object")
    return found
