"""From a TOML file and `section.key=value` overrides to a validated job, or one clear message.

Knows nothing of what the jobs mean: it reads, merges, validates and translates pydantic's errors.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from rayrlhf.config.keys import job_keys
from rayrlhf.errors import ConfigError

J = TypeVar("J", bound=BaseModel)


def load_job(kind: type[J], path: str | Path, overrides: Iterable[str] = ()) -> J:
    """Read `path`, apply overrides such as `rollout.max_tokens=64`, and validate.

    Raises:
        ConfigError: the file is missing or no TOML, a key is unknown (with a suggestion), or a value is wrong.

    """
    return validate_job(kind, read_values(path, overrides), source=str(path))


def read_values(path: str | Path, overrides: Iterable[str] = ()) -> dict[str, Any]:
    """The values as they are written in `path` and the overrides, not validated.

    Raises:
        ConfigError: the file is missing or no TOML, or an override is none.

    """
    try:
        file = Path(path) if isinstance(path, str) else path
        values = tomllib.loads(file.read_bytes().decode("utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such config file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None
    for override in overrides:
        _apply(values, override)
    return values


def flat_keys(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Values by dotted key, as overrides name them."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flat_keys(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return flat


def settings_of(kind: type[J], overrides: Iterable[str]) -> J:
    """Settings of a command, all of them `key=value`."""
    values: dict[str, Any] = {}
    for override in overrides:
        _apply(values, override)
    return validate_job(kind, values, source="settings")


def validate_job(kind: type[J], values: Mapping[str, Any], source: str = "config") -> J:
    """Validate a mapping as a job; `source` heads the message of a `ConfigError`."""
    try:
        return kind.model_validate(_tuples(values))
    except ValidationError as error:
        lines = [_explain(kind, item) for item in error.errors()]
        raise ConfigError(f"{source}: " + ("\n  " if len(lines) > 1 else "") + "\n  ".join(lines)) from None


def _tuples(value: Any) -> Any:
    """TOML has arrays where frozen models have tuples; strict validation would refuse the list."""
    if isinstance(value, Mapping):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def _apply(values: dict[str, Any], override: str) -> None:
    """Set one key of a file's values, as in `section.key=value`."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"override {override!r}: expected section.key=value")
    *sections, leaf = key.strip().split(".")
    for section in sections:
        values = values.setdefault(section, {})
        if not isinstance(values, dict):
            raise ConfigError(f"override {override!r}: {section!r} is a value, not a section")
    values[leaf] = _parse(text.strip())


def _parse(text: str) -> Any:
    """A TOML value where it is one, else the text itself (so strings need no quotes in a shell)."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _explain(kind: type[BaseModel], item: Any) -> str:
    location = [str(part) for part in item["loc"] if part not in ("ppo", "grpo")]
    key = ".".join(location) or "config"
    match item["type"]:
        case "extra_forbidden":
            return f"unknown key {key!r}{_suggest(kind, location)}"
        case "union_tag_invalid":
            found, known = item["ctx"]["tag"], item["ctx"]["expected_tags"]
            return f"{key}.kind = {found!r}: expected one of {known}"
        case "missing":
            return f"missing key {key!r}"
        case "value_error":
            message = str(item["ctx"]["error"])
            return message
        case _:
            return f"{key} = {item['input']!r}: {item['msg'][0].lower()}{item['msg'][1:]}"


def _suggest(kind: type[BaseModel], location: list[str]) -> str:
    known = [key.name for key in job_keys(kind)]
    full = ".".join(location)
    close = difflib.get_close_matches(full, known, n=1, cutoff=0.6)
    if not close:
        same_leaf = [name for name in known if name.rsplit(".", 1)[-1] == location[-1]]
        close = same_leaf or difflib.get_close_matches(location[-1], known, n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""
