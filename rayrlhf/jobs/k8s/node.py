"""A place in a manifest: a value and the path to it. What rules look through, and how they say where."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong at a path, and what to change."""

    path: str
    message: str


@dataclass(frozen=True, slots=True)
class Node:
    """A value in a manifest; one that is not there has the value None."""

    value: Any
    path: str = ""

    def __getitem__(self, key: str) -> Node:
        value = self.value.get(key) if isinstance(self.value, dict) else None
        return Node(value, join(self.path, key))

    def at(self, *keys: str) -> Node:
        """Several keys down."""
        node = self
        for key in keys:
            node = node[key]
        return node

    @property
    def exists(self) -> bool:
        """Whether it is there."""
        return self.value is not None

    @property
    def text(self) -> str:
        """A text; empty where there is none."""
        return self.value if isinstance(self.value, str) else ""

    @property
    def number(self) -> int | None:
        """A whole number, where it is one."""
        return self.value if isinstance(self.value, int) and not isinstance(self.value, bool) else None

    def each(self) -> Iterator[Node]:
        """The items of a list."""
        for index, value in enumerate(self.value if isinstance(self.value, list) else ()):
            yield Node(value, f"{self.path}[{index}]")

    def entries(self) -> Iterator[tuple[str, Node]]:
        """The entries of a mapping."""
        for key in self.value if isinstance(self.value, dict) else ():
            yield str(key), self[key]

    def wrong(self, message: str) -> Problem:
        """A problem here."""
        return Problem(self.path, message)


def join(path: str, key: str) -> str:
    """A path one key longer; keys with dots or slashes are quoted."""
    plain = key.replace("-", "").replace("_", "").replace("$", "").isalnum()
    step = key if plain else f'["{key}"]'
    return f"{path}.{step}" if path and plain else f"{path}{step}"
