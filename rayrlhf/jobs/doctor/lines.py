"""Findings for people: a heading a topic, a line a check, a remedy below what is not green. Or as one JSON object."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from rich.console import Console

from rayrlhf.jobs.doctor.facts import NodeFacts
from rayrlhf.jobs.doctor.findings import Finding, Level
from rayrlhf.observability.display import printable

CHECK_WIDTH = 20
GREEN_LINES = 3
"""Lines of one check that say that all is well, on different nodes; the rest are counted."""


class Lines:
    """Prints findings as they come."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._topic = ""

    def show(self, findings: Sequence[Finding], node_count: int) -> None:
        """A batch; `node_count` is that of the nodes that are examined."""
        greens = Counter[str]()
        for finding in findings:
            greens[finding.check] += finding.level is Level.GREEN
            if finding.level is Level.GREEN and greens[finding.check] > GREEN_LINES:
                continue
            self._show(finding, node_count)
        for check, count in greens.items():
            if count > GREEN_LINES:
                self._line(Level.GREEN, check, f"and {count - GREEN_LINES} more like these")

    def _show(self, finding: Finding, node_count: int) -> None:
        if finding.topic != self._topic:
            self._topic = finding.topic
            self._console.print(f"[bold]{finding.topic}[/]")
        where = f"{', '.join(finding.nodes)}: " if 0 < len(finding.nodes) < node_count else ""
        self._line(finding.level, finding.check, where + finding.found)
        if finding.remedy:
            self._console.print(f"  {'':<7} {'':<{CHECK_WIDTH}} → {printable(finding.remedy)}")

    def _line(self, level: Level, check: str, text: str) -> None:
        indented = printable(text).replace("\n", f"\n{'':<{CHECK_WIDTH + 11}}")
        self._console.print(f"  [{level}]{level:<7}[/] {check:<{CHECK_WIDTH}} {indented}")

    def total(self, findings: Sequence[Finding], seconds: float) -> None:
        """The last line."""
        counts = Counter(finding.level for finding in findings)
        told = ", ".join(f"[{level}]{counts[level]} {level}[/]" for level in reversed(Level) if counts[level])
        self._console.print(f"\n{told} in {seconds:.0f} s")


def as_json(findings: Sequence[Finding], facts: Mapping[str, NodeFacts], seconds: float) -> str:
    """Everything that was found, and the facts of each node that it was judged by."""
    return json.dumps(
        {
            "ok": not any(finding.is_red for finding in findings),
            "seconds": round(seconds, 1),
            "findings": [asdict(finding) for finding in findings],
            "nodes": {node: asdict(one) for node, one in facts.items()},
        },
        indent=1,
    )
