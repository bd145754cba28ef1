"""The fit: exact where the points are, never negative, every point with the same weight."""

import numpy as np
import pytest

from rayrlhf.jobs.plan.costs import Point, between_threads, fit, non_negative_least_squares, relative_errors, seconds


def test_the_fit_finds_what_made_the_points():
    truth = {"calls": 2e-3, "flops": 1e-11}
    works = [{"calls": 1.0, "flops": 10.0**k, "tokens": float(k)} for k in range(6, 12)]
    points = [Point(amount, seconds(amount, truth)) for amount in works]
    found = fit(points, ("calls", "flops", "tokens"))
    assert {**truth, "tokens": 0.0} == pytest.approx({"tokens": 0.0, **found}, rel=1e-6)
    assert max(map(abs, relative_errors(points, found))) < 1e-6


def test_costs_are_never_negative():
    points = [Point({"a": 1.0, "b": 1.0}, 1.0), Point({"a": 1.0, "b": 2.0}, 0.5), Point({"a": 1.0, "b": 3.0}, 0.25)]
    found = fit(points, ("a", "b"))
    assert set(found) == {"a"}
    assert found["a"] > 0


def test_least_squares_without_active_bounds_are_the_usual_ones():
    generator = np.random.default_rng(0)
    design, x = generator.random((20, 4)), np.array([0.1, 2.0, 0.5, 1.0])
    assert non_negative_least_squares(design, design @ x) == pytest.approx(x, rel=1e-6)


def test_a_short_call_counts_as_much_as_a_long_one():
    points = [Point({"a": 1.0}, 1.0), Point({"a": 1.0}, 1.0), Point({"a": 1000.0}, 2000.0)]
    assert fit(points, ("a",))["a"] == pytest.approx(1.0, rel=0.01)


def test_points_that_were_spoiled_do_not_draw_the_others():
    truth = {"calls": 2e-3, "flops": 1e-11}
    works = [{"calls": 1.0, "flops": 3.0 * 10**k} for k in (6, 7, 8, 9, 10, 10.5, 11)]
    points = [Point(amount, seconds(amount, truth)) for amount in works]
    spoiled = [Point(p.work, 30 * p.seconds) if i in (1, 4) else p for i, p in enumerate(points)]
    assert fit(spoiled, ("calls", "flops")) == pytest.approx(truth, rel=0.05)


def test_threads_between_one_and_all_follow_amdahl():
    one, every = {"flops": 4.0, "calls": 1.0}, {"flops": 1.0, "calls": 1.0}
    assert between_threads(one, every, 4, 1) == pytest.approx(one)
    assert between_threads(one, every, 4, 4) == every
    assert between_threads(one, every, 4, 2) == pytest.approx({"flops": 2.0, "calls": 1.0})
