"""Records of what comes from outside: read strictly, and refused with one sentence that repeats nothing of theirs."""

from __future__ import annotations

import re
from typing import Annotated, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from rayrlhf.errors import RequestRefusedError

T = TypeVar("T")


def without_nul(text: str) -> str:
    """The text, unless it holds U+0000."""
    if "\0" in text:
        raise ValueError("the character U+0000 is not text, and PostgreSQL cannot hold it")
    return text


Name = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(without_nul)]


class Record(BaseModel):
    """Unknown keys are refused and values are not converted behind the sender's back."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, protected_namespaces=())


def read_strictly(adapter: TypeAdapter[T], body: bytes | str) -> T:
    """A value from JSON, or the one sentence that says what is wrong with it."""
    try:
        return adapter.validate_json(body)
    except ValidationError as error:
        raise RequestRefusedError(explain(error), status=400, code="invalid_body") from None


def explain(error: ValidationError) -> str:
    """The first thing that is wrong, with its place and without what was sent."""
    first = error.errors(include_url=False, include_input=False)[0]
    if first["type"] == "union_tag_invalid":
        return f"kind: {first['ctx']['expected_tags']} is expected"
    # The names of unknown keys are the sender's words too: only what looks like a name is repeated.
    place = ".".join(str(part) for part in first["loc"] if re.fullmatch(r"\w{1,40}", str(part), re.ASCII))
    message = first["msg"].removeprefix("Value error, ")
    return f"{place}: {message}" if place else message
