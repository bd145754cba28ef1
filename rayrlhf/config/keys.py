"""Every key of a job, from the models themselves: what `--help` prints, what docs/config.md says, what a typo is near.

python -m rayrlhf.config.keys > docs/config.md
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from rayrlhf.config.jobs import RewardJob, RLJob, SFTJob

JOB_MODELS: dict[str, type[BaseModel]] = {"sft": SFTJob, "reward": RewardJob, "rl": RLJob}


@dataclass(frozen=True, slots=True)
class Key:
    """One dotted key; `kind` is the algorithm that has it, where there is a choice."""

    name: str
    kind: str
    values: str
    default: str
    description: str


def job_keys(model: type[BaseModel], prefix: str = "", defaults: BaseModel | None = None) -> list[Key]:
    """All keys in the order of the file. `defaults` is the section's own default, where a job sets another."""
    keys: list[Key] = []
    for name, info in model.model_fields.items():
        sections = [t for t in _members(info.annotation) if isinstance(t, type) and issubclass(t, BaseModel)]
        for section in sections:
            keys += job_keys(section, f"{prefix}{name}.", info.default if isinstance(info.default, section) else None)
        if not sections:
            given = defaults is not None and name in defaults.model_fields_set
            default = getattr(defaults, name) if given else info.default
            keys.append(
                Key(prefix + name, _kind(model), _values(info), _default(info, default), info.description or "")
            )
    return keys


def help_text(command: str) -> str:
    """The keys of a command's TOML, for `--help`."""
    rows = [
        f"  {k.name}{f' ({k.kind})' if k.kind else ''} = {k.default}\n      {k.description}"
        for k in job_keys(JOB_MODELS[command])
    ]
    return "keys of the TOML file, with their defaults:\n" + "\n".join(rows)


def markdown() -> str:
    """docs/config.md."""
    lines = [
        "# Config keys",
        "",
        "Made by `python -m rayrlhf.config.keys` from the models in `rayrlhf/config/`. Every key can be overridden on",
        "the command line, as in `rayrlhf rl job.toml rollout.max_tokens=64`. Unknown keys are refused.",
    ]
    for command, model in JOB_MODELS.items():
        lines += ["", f"## `rayrlhf {command}`", "", "| key | values | default | |", "|---|---|---|---|"]
        for key in job_keys(model):
            kind = f" ({key.kind})" if key.kind else ""
            lines.append(f"| `{key.name}`{kind} | {key.values} | {key.default} | {key.description} |")
    return "\n".join(lines) + "\n"


def _kind(model: type[BaseModel]) -> str:
    kind = model.model_fields.get("kind")
    return str(get_args(kind.annotation)[0]) if kind else ""


def _values(info: FieldInfo) -> str:
    annotation = info.annotation
    members = [m for m in get_args(annotation) if m is not type(None)]
    if get_origin(annotation) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(annotation))
    if get_origin(annotation) is dict:
        return "table of " + _type_name(members[1])
    if get_origin(annotation) is tuple:
        return "list of " + " and ".join(_type_name(m) for m in members)
    return _type_name(_members(members[0])[0]) if members else _type_name(annotation)


def _type_name(annotation: Any) -> str:
    names = {int: "whole number", float: "number", str: "text", bool: "true, false"}
    return names.get(annotation, str(annotation))


def _default(info: FieldInfo, default: Any) -> str:
    if info.is_required():
        return "required"
    return "unset" if default is None else json.dumps(default)


def _members(annotation: Any) -> list[Any]:
    """A type's alternatives, through unions and annotations."""
    if get_origin(annotation) in (Literal, tuple, dict):
        return [annotation]
    parts = [part for part in get_args(annotation) if part is not type(None)]
    return [member for part in parts for member in _members(part)] if parts else [annotation]


if __name__ == "__main__":
    print(markdown(), end="")
