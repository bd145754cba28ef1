"""What a candidate must show: each gate is a number, a bound and a verdict, and all of them are written down."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rayrlhf.algorithms.proportions import wilson_interval
from rayrlhf.cycle.config import CanaryConfig, GateConfig
from rayrlhf.feedback.reading import Snapshot
from rayrlhf.stages.policy_comparison import PolicyComparison


@dataclass(frozen=True, slots=True)
class Gate:
    """One of them."""

    name: str
    found: float
    bound: str
    passed: bool


def gates_of(found: PolicyComparison, bounds: GateConfig) -> list[Gate]:
    """All gates before the canary. A number that is not finite passes none."""
    ratio, top = found.length_ratio, bounds.max_length_ratio
    rise = found.refusals - found.serving_refusals
    gates = [
        _at_least("win rate, lower end", found.win.low, bounds.min_win_rate),
        _at_most("KL, nats a response", found.kl_nats, bounds.max_kl_nats),
        Gate("length ratio", ratio, f"{1 / top:g} to {top:g}", 1 / top <= ratio <= top),
        _at_most("rise of refusals", rise, bounds.max_refusal_rise),
    ]
    if not math.isnan(found.serving_capability_nats):
        drop = found.capability_nats - found.serving_capability_nats
        gates.append(_at_most("capability drop, nats a token", drop, bounds.max_capability_drop_nats))
    return gates


def failed(gates: Sequence[Gate]) -> str:
    """The gates that did not open, in words; empty when all did."""
    return "; ".join(f"{gate.name} {gate.found:.3g}, wanted {gate.bound}" for gate in gates if not gate.passed)


def evidence(found: PolicyComparison, gates: Sequence[Gate]) -> dict[str, Any]:
    """What is written down, as JSON."""
    measured = {name: None if value != value else value for name, value in asdict(found).items()}  # NaN is not JSON
    return {"measured": measured, "gates": [asdict(gate) for gate in gates], "failed": failed(gates)}


@dataclass(frozen=True, slots=True)
class CanaryRecord:
    """How people judged a canary's answers against the serving policy's."""

    comparisons: int
    share: float
    low: float
    high: float

    def verdict(self, bounds: CanaryConfig) -> bool | None:
        """Promote, or take back; none while there is too little to tell."""
        return None if self.comparisons < bounds.min_comparisons else self.share >= bounds.min_win_rate


def canary_record(snapshot: Snapshot, canary: int, primary: int) -> CanaryRecord:
    """Over all pairs of their answers that people have compared; a tie is half a win."""
    wins: list[float] = []
    for comparison in snapshot.comparisons:
        versions = [snapshot.answers[i].policy_version for i in comparison.response_ids]
        ours = [r for r, version in zip(comparison.ranks, versions, strict=True) if version == canary]
        theirs = [r for r, version in zip(comparison.ranks, versions, strict=True) if version == primary]
        wins += [1.0 if a < b else 0.5 if a == b else 0.0 for a in ours for b in theirs]
    if not wins:
        return CanaryRecord(0, float("nan"), 0.0, 1.0)
    low, high = wilson_interval(sum(wins), len(wins))
    return CanaryRecord(len(wins), sum(wins) / len(wins), low, high)


def _at_least(name: str, found: float, bound: float) -> Gate:
    return Gate(name, found, f"at least {bound:g}", found >= bound)


def _at_most(name: str, found: float, bound: float) -> Gate:
    return Gate(name, found, f"at most {bound:g}", found <= bound)
