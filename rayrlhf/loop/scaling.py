"""How many workers of a role a run should have, which people may change while it goes on.

`rayrlhf workers RUN rollout=4` writes `workers.toml` into the run directory; the loop reads it before every step. More
workers come up beside the others and join when the cluster has room for them; fewer end at once, and what they were
doing is done by the others. Ranks that train hold state together, so their number changes by a resume only.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

from rayrlhf.data.durable import as_path, is_file, read_bytes, write_durably
from rayrlhf.errors import ConfigError

FILE = "workers.toml"
SCALABLE = ("rollout", "reward", "reference")


def ask_for_workers(run: str, counts: Sequence[str]) -> dict[str, int]:
    """Write `role=count` requests into a run's directory; returns all that are asked for now.

    Raises:
        ConfigError: there is no such run, or a request is none.

    """
    directory = as_path(run)
    if not is_file(directory / "config.toml"):
        raise ConfigError(f"{run}: no run directory (no config.toml)")
    wanted = read_counts(directory / FILE)
    for text in counts:
        role, _, count = text.partition("=")
        wanted[role] = int(count) if count.isdecimal() else 0
    _check(wanted, f"{run}, {' '.join(counts)}")
    write_durably(directory / FILE, "".join(f"{role} = {count}\n" for role, count in sorted(wanted.items())).encode())
    return wanted


def read_counts(path: Path) -> dict[str, int]:
    """Wanted workers by role; empty where nobody has asked.

    Raises:
        ConfigError: the file holds anything else than a count for such a role.

    """
    try:
        counts = tomllib.loads(read_bytes(path).decode())
    except FileNotFoundError:
        return {}
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None
    _check(counts, str(path))
    return counts


def _check(counts: Mapping[str, object], where: str) -> None:
    for role, count in counts.items():
        if role not in SCALABLE:
            raise ConfigError(f"{where}: {role!r} has no workers to add or remove; expected {', '.join(SCALABLE)}")
        if not isinstance(count, int) or isinstance(count, bool) or count < 1:
            raise ConfigError(f"{where}: {role} = {count!r}: expected a whole number of at least 1")
