from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayrlhf.report.numbers import SHARE, Unit, duration, moment, number, size_of, tick_texts, ticks


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (0.12345, "0.1235"),
        (-12.5, "−12.5"),
        (12345.6, "12,346"),
        (1.2e-5, "1.2e-05"),
        (-3e9, "−3e+09"),
        (999.96, "1000"),
    ],
)
def test_numbers_are_short_and_keep_what_is_before_the_point(value, text):
    assert number(value) == text


def test_units_are_said_once():
    assert SHARE.text(0.4567, 3) == "45.7%"
    assert Unit("GiB", 1 / 1024).text(1536) == "1.5 GiB"
    assert size_of(3 * 2**20) == "3 MiB"
    assert [" ".join(duration(s)) for s in (12.5, 90, 7200, 180_000)] == ["12.5 s", "1.5 min", "2 h", "2.08 d"]


def test_a_moment_that_no_calendar_has_is_left_out():
    assert moment(0.0) == "1970-01-01 00:00:00 UTC"
    assert moment(1e300) == ""


@settings(deadline=None)
@given(st.floats(-1e9, 1e9), st.floats(1e-6, 1e9))
def test_ticks_are_within_the_axis_evenly_spaced_few_and_told_apart(low, width):
    high = low + width
    found = ticks(low, high)
    assert 1 <= len(found) <= 7
    slack = width * 1e-6 + abs(low) * 1e-12
    assert all(low - slack <= tick <= high + slack for tick in found)
    steps = [b - a for a, b in pairwise(found)]
    assert all(step == pytest.approx(steps[0], rel=1e-3) for step in steps) or width < abs(low) * 1e-9
    if width > abs(high) * 1e-4:
        assert len(set(tick_texts(found))) == len(found)


def test_texts_of_an_axis_have_the_same_decimals():
    assert tick_texts([-0.5, 0.0, 0.5, 1.0]) == ["−0.5", "0.0", "0.5", "1.0"]
    assert tick_texts([-5e-7, 0.0, 5e-7, 1e-6, 1.5e-6]) == ["−5e-07", "0", "5e-07", "1e-06", "1.5e-06"]
    assert tick_texts([1.31e8, 1.315e8, 1.32e8]) == ["1.31e+08", "1.315e+08", "1.32e+08"]
