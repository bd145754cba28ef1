"""Where a running service is: its settings and its Ray cluster, in `service.json` of its directory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from rayrlhf.access.strict import Record, explain
from rayrlhf.data.durable import write_durably
from rayrlhf.errors import ReleaseError
from rayrlhf.serving.settings import ServiceSettings

if TYPE_CHECKING:
    from rayrlhf.serving.service import Service

FILE = "service.json"


class Whereabouts(Record):
    """The file."""

    settings: ServiceSettings
    ray_address: str

    def write(self) -> None:
        """Leave it where others look."""
        write_durably(Path(self.settings.directory) / FILE, json.dumps(self.model_dump(mode="json"), indent=1).encode())


def find_service(directory: str) -> Whereabouts:
    """The service of a directory.

    Raises:
        ReleaseError: there is none, or the file is damaged.

    """
    path = Path(directory) / FILE
    try:
        return Whereabouts.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise ReleaseError(f"{directory}: no service ({FILE} is not there); rayrlhf serve starts one") from None
    except ValidationError as error:
        raise ReleaseError(f"{path}: damaged: {explain(error)}") from None


@contextmanager
def on_its_cluster(where: Whereabouts) -> Iterator[Service]:
    """The service, with this process on its cluster for as long as the block; it leaves any other one first."""
    from rayrlhf.runtime.cluster import connect, disconnect
    from rayrlhf.serving.service import Service

    disconnect()
    connect(where.ray_address)
    try:
        yield Service(where.settings)
    finally:
        disconnect()
