"""Seconds per unit of work: fitted to measurements, or derived from a data sheet; used the same way.

The fit has the smallest sum of absolute *relative* errors with coefficients that are not negative: a machine has no
negative costs, a step of 10 ms counts as much as one of 10 s, and a point that something else on the machine spoiled
draws the others no further than a good one. It is found by least squares that are not negative (Lawson and Hanson,
1974, chapter 23), reweighted by the errors they leave.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rayrlhf.jobs.plan.work import Work

Coefficients = Mapping[str, float]
ROUNDS = 30
SMALL_ERROR = 0.02
"""Errors below this are as good as none."""


@dataclass(frozen=True, slots=True)
class Point:
    """One measured call."""

    work: Work
    seconds: float


def seconds(work: Work, coefficients: Coefficients) -> float:
    """How long the work takes; work without a coefficient costs nothing."""
    return sum(amount * coefficients.get(feature, 0.0) for feature, amount in work.items())


def fit(points: Sequence[Point], features: Sequence[str]) -> dict[str, float]:
    """Coefficients that are not negative and have the smallest sum of absolute relative errors."""
    target = np.array([point.seconds for point in points])
    design = np.array([[point.work.get(f, 0.0) for f in features] for point in points]) / target[:, None]
    scale = np.maximum(np.abs(design).max(axis=0), 1e-300)
    weights, ones = np.ones(len(points)), np.ones(len(points))
    for _ in range(ROUNDS):
        roots = np.sqrt(weights)
        found = non_negative_least_squares(design / scale * roots[:, None], roots)
        weights = 1 / np.maximum(np.abs(design / scale @ found - ones), SMALL_ERROR)
    return {f: float(c) for f, c in zip(features, found / scale, strict=True) if c > 0}


def relative_errors(points: Sequence[Point], coefficients: Coefficients) -> list[float]:
    """How far the fit is off at each of its own points."""
    return [seconds(point.work, coefficients) / point.seconds - 1 for point in points]


def non_negative_least_squares(design: np.ndarray, target: np.ndarray) -> np.ndarray:
    """argmin |design x - target| over x >= 0 (Lawson-Hanson active set)."""
    count = design.shape[1]
    x, passive = np.zeros(count), np.zeros(count, dtype=bool)
    for _ in range(10 * count):
        gradient = design.T @ (target - design @ x)
        gradient[passive] = 0
        if gradient.max() <= 1e-10:
            break
        passive[int(gradient.argmax())] = True
        x = _within(design, target, x, passive)
    return x


def _within(design: np.ndarray, target: np.ndarray, x: np.ndarray, passive: np.ndarray) -> np.ndarray:
    """The least-squares solution of the passive columns, or as far towards it as no entry turns negative."""
    while passive.any():
        solution = np.zeros_like(x)
        solution[passive] = np.linalg.lstsq(design[:, passive], target, rcond=None)[0]
        negative = passive & (solution <= 0)
        if not negative.any():
            return solution
        step = np.min(x[negative] / np.maximum(x[negative] - solution[negative], 1e-300))
        x = x + step * (solution - x)
        passive &= x > 1e-14
        x[~passive] = 0
    return np.zeros_like(x)


def between_threads(one: Coefficients, all_cores: Coefficients, cores: int, threads: int) -> dict[str, float]:
    """Coefficients at `threads` from those at one thread and at all cores: t(k) = serial + parallel / k."""
    if cores == 1 or threads >= cores:
        return dict(all_cores)
    result = {}
    for feature in {*one, *all_cores}:
        a, b = one.get(feature, 0.0), all_cores.get(feature, 0.0)
        parallel = (a - b) / (1 - 1 / cores)
        result[feature] = max(0.0, a - parallel + parallel / threads)
    return result
