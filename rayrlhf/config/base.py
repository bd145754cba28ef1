"""What every section of a config shares: strict, frozen, documented. No torch, no Ray: `--help` is instant."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class Section(BaseModel):
    """A config section: unknown keys are refused, values are not converted behind the user's back."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, protected_namespaces=())


PositiveInt = Annotated[int, Field(ge=1)]
NonNegativeInt = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
NonNegativeFloat = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
