"""What every section of a config shares: strict, frozen, documented. No torch, no Ray: `--help` is instant."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


class Section(BaseModel):
    """A config section: unknown keys are refused, values are not converted behind the user's back."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, validate_default=True, protected_namespaces=())


def _absolute_if_here(value: str) -> str:
    return str(Path(value).absolute()) if Path(value).exists() else value


PathOrHubId = Annotated[str, AfterValidator(_absolute_if_here)]
"""A path that exists here is made absolute: actors have other working directories. Anything else is a hub id."""
Directory = Annotated[str, AfterValidator(lambda value: str(Path(value).absolute()))]
"""A directory that may not exist yet."""
PositiveInt = Annotated[int, Field(ge=1)]
NonNegativeInt = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
NonNegativeFloat = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
