"""Which job a TOML describes, from the sections that only that job has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rayrlhf.errors import ConfigError

SIGNS = "[algorithm] makes it rl, data.demonstrations sft, data.comparisons reward, [collect], [canary] or [rl] cycle"


def job_kind(values: Mapping[str, Any], option: str = "") -> str:
    """rl, sft, reward or cycle; `option` is what the command can be told it with, if it can.

    Raises:
        ConfigError: it is none's, or more than one's.

    """
    if {"collect", "canary", "rl"} & values.keys():
        return "cycle"
    data = values.get("data", {})
    signs = {"rl": "algorithm" in values, "sft": "demonstrations" in data, "reward": "comparisons" in data}
    found = [kind for kind, is_there in signs.items() if is_there]
    if len(found) != 1:
        remedy = f". Give {option}" if option else ""
        fits = " and ".join(found) or "none of them"
        raise ConfigError(f"which job this is cannot be told: {SIGNS}, and {fits} fits{remedy}")
    return found[0]
