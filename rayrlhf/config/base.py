"""What every section of a config shares: strict, frozen, documented. No torch, no Ray: `--help` is instant."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError


class Section(BaseModel):
    """A config section: unknown keys are refused, values are not converted behind the user's back."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, validate_default=True, protected_namespaces=())


def _absolute_if_here(value: str) -> str:
    if "://" in value:
        raise _wrong("is a URL, which is not read here: download it, and give the path of a file or directory")
    return str(Path(value).absolute()) if Path(value).exists() else value


def _directory(value: str) -> str:
    """An absolute path, or the URL of an object store as it is."""
    scheme, is_url, rest = value.partition("://")
    if not is_url or scheme in ("file", "local"):
        return str(Path(rest if is_url else value).absolute())
    if urlsplit(value).password is not None:
        # The value is not shown: it would be in logs then, and in config.toml if it were taken.
        raise ValueError("run.directory: a URL without credentials is expected; these belong into the environment")
    _require_store_client(scheme, value)
    return value.rstrip("/")


def _service_url(value: str) -> str:
    """Nothing of a URL that is refused is shown: what makes it wrong may be a secret."""
    try:
        parts = urlsplit(value)
        complete = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number
        complete = False
    if "@" in value:
        raise ValueError(
            "reward.url: a URL without credentials is expected; the token comes from RAYRLHF_REWARD_TOKEN in the "
            "environment"
        )
    if not complete or parts.query or parts.fragment or not value.isprintable() or " " in value:
        raise ValueError("reward.url: http://host:port or https://host:port is expected, without a query")
    return value.rstrip("/")


def _require_store_client(scheme: str, url: str) -> None:
    from fsspec import get_filesystem_class

    try:
        client = get_filesystem_class(scheme)
    except ValueError:
        raise _wrong(
            f"no store is known for {scheme}://; s3://bucket/runs and gs://bucket/runs are two that are"
        ) from None
    except ImportError as error:
        extra = STORE_EXTRAS.get(scheme)
        hint = f": pip install 'rayrlhf[{extra}]'" if extra else ""
        raise _wrong(f"the client of {scheme}:// is not installed ({error}){hint}") from None
    if scheme == "memory" or client._get_kwargs_from_urls(url):
        raise _wrong("object stores and paths can hold runs: of this URL, all processes would not see the same")


def _wrong(message: str) -> PydanticCustomError:
    return PydanticCustomError("directory", "{message}", {"message": message})


STORE_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}
"""Extras of this package by URL scheme."""
PathOrHubId = Annotated[str, AfterValidator(_absolute_if_here)]
"""A path that exists here is made absolute: actors have other working directories. Anything else is a hub id."""
Directory = Annotated[str, AfterValidator(_directory)]
"""A directory that may not exist yet: a path, or a URL that fsspec has a client for."""
ServiceUrl = Annotated[str, AfterValidator(_service_url)]
"""Where an HTTP service is; a path in it is a prefix of the service's routes."""
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
"""In hexadecimal."""
PositiveInt = Annotated[int, Field(ge=1)]
NonNegativeInt = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
NonNegativeFloat = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
