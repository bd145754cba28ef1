"""What the doctor says: one finding a check, green, yellow or red; what is not green always has its remedy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum


class Level(StrEnum):
    """How a check ended: good, worth a look, or a run would fail or be unsafe."""

    GREEN = "green"
    YELLOW = "yellow"
    RED = "red"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line. `nodes` are those it is true of; empty: it is not about single nodes."""

    topic: str
    check: str
    level: Level
    found: str
    remedy: str = ""
    nodes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if (self.level is Level.GREEN) == bool(self.remedy):
            raise ValueError(f"{self.check}: a finding has a remedy exactly when it is not green")

    @property
    def is_red(self) -> bool:
        """Whether a run would fail, or be unsafe."""
        return self.level is Level.RED

    def on(self, node: str) -> Finding:
        """The same, of a node."""
        return replace(self, nodes=(node,))


@dataclass(frozen=True, slots=True)
class Check:
    """The name of a check, which makes its findings."""

    topic: str
    name: str

    def green(self, found: str) -> Finding:
        """All is well."""
        return Finding(self.topic, self.name, Level.GREEN, found)

    def yellow(self, found: str, remedy: str) -> Finding:
        """A run may go well, or be slower than it could."""
        return Finding(self.topic, self.name, Level.YELLOW, found, remedy)

    def red(self, found: str, remedy: str) -> Finding:
        """A run would fail, or be unsafe."""
        return Finding(self.topic, self.name, Level.RED, found, remedy)


def of_all_nodes(found: Sequence[Finding]) -> list[Finding]:
    """Equal findings of several nodes become one; topics stay together, and checks in them, each where it was first."""
    merged: dict[Finding, tuple[str, ...]] = {}
    for finding in found:
        key = replace(finding, nodes=())
        merged[key] = (*merged.get(key, ()), *finding.nodes)
    topics, checks = (list(dict.fromkeys(names)) for names in ((f.topic for f in found), (f.check for f in found)))
    lines = [replace(key, nodes=nodes) for key, nodes in merged.items()]
    return sorted(lines, key=lambda line: (topics.index(line.topic), checks.index(line.check)))
