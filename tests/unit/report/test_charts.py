"""Metrics on charts: nothing is lost, nothing is drawn that was not measured."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayrlhf.report.bins import MOST_BINS, binned, stacked
from rayrlhf.report.catalogue import Chart, Series, arrange
from rayrlhf.report.marks import Mark
from rayrlhf.report.numbers import PLAIN, SHARE, Unit
from rayrlhf.report.plot import BOTTOM, LEFT, RIGHT, TOP, plot
from tests.unit.report.runs import metrics

finite = st.floats(-1e90, 1e90)
columns = st.dictionaries(st.integers(0, 10**6), finite, min_size=1, max_size=40)


def chart(*series, **options):
    return Chart("title", "", PLAIN, [Series(f"s{i}", values) for i, values in enumerate(series)], **options)


def points(path):
    return [(float(x), float(y)) for x, y in re.findall(r"(-?[\d.e+-]+) (-?[\d.e+-]+)", path)]


def charts_of(found):
    return [c for group in found.groups.values() for c in group] + list(found.other)


def test_every_metric_is_on_one_chart_or_among_the_constant_ones():
    names = {name for name in metrics(1) if not name.startswith("memory/")} - {"reward/std"}
    given_columns = {name: {1: 1.0, 2: float(len(name))} for name in metrics(1)} | {"mine/constant": {1: 7.0, 2: 7.0}}
    found = arrange(given_columns)
    lines = [series for c in charts_of(found) for series in c.series]
    assert len(lines) == len(names - {"mine/constant"}) + 1  # one for the learner's memory
    assert found.constant == {"mine/constant": 7.0}
    assert [c.series[0].spread for c in charts_of(found) if c.title == "Reward"] == [given_columns["reward/std"]]


def test_a_metric_that_only_identifies_is_on_no_chart():
    found = arrange({"weight_sync/weights_digest": {1: 1.0, 2: 5.0}})
    assert charts_of(found) == []
    assert found.constant == {}


def test_memory_of_a_role_is_that_of_its_largest_worker():
    found = arrange({"memory/learner_0_mib": {1: 5.0, 2: 1.0}, "memory/learner_1_mib": {1: 2.0, 2: 3.0, 3: 4.0}})
    ((series,),) = [c.series for c in charts_of(found)]
    assert series == Series("learner", {1: 5.0, 2: 3.0, 3: 4.0})


def test_phases_are_stacked_in_their_order_and_reach_the_whole_step():
    times = {f"time/{name}_s": {1: 1.0, 2: 2.0} for name in ("commit", "learn", "mine", "rollout")}
    (found,) = charts_of(arrange(times))
    assert [series.label for series in found.series] == ["rollout", "learn", "commit", "mine"]
    top = stacked(binned(found, [1, 2]))[-1]
    assert [bin_.high for bin_ in top] == [4.0, 8.0]


def test_a_chart_that_only_tells_of_change_is_left_out_without_any():
    assert [c.title for c in charts_of(arrange({"kl/coefficient": {1: 0.1, 2: 0.1}}))] == []
    assert [c.title for c in charts_of(arrange({"kl/coefficient": {1: 0.1, 2: 0.2}}))] == ["KL coefficient"]


@settings(deadline=None)
@given(st.lists(columns, min_size=1, max_size=3))
def test_lines_and_their_bands_stay_inside_the_axes(series):
    drawn = plot(chart(*series), sorted({step for values in series for step in values}), [])
    for line in drawn.lines:
        for x, y in points(line.path.replace("m-3 0h6", "")) + points(line.band):
            assert LEFT <= x <= RIGHT
            assert TOP <= y <= BOTTOM
    assert all(TOP - 0.1 <= tick.at <= BOTTOM + 0.1 for tick in drawn.y_ticks)


@settings(deadline=None)
@given(st.integers(1, 2000), st.data())
def test_a_long_run_is_drawn_in_bins_whose_band_holds_every_value(count, data):
    steps = list(range(1, count + 1))
    values = {step: data.draw(st.just(float(step % 7))) for step in steps[:50]} | {count: 99.0}
    (bins,) = binned(chart(values), steps)
    assert len(bins) <= MOST_BINS
    assert [bins[0].first, bins[-1].last] == [1, count]
    for step, value in values.items():
        (bin_,) = [b for b in bins if b.first <= step <= b.last]
        assert bin_.low <= value <= bin_.high


def test_steps_without_a_value_are_gaps_and_not_bridged():
    (line,) = plot(chart({1: 1.0, 2: 2.0, 4: 3.0, 5: 4.0}), [1, 2, 3, 4, 5], []).lines
    assert line.path.count("M") == 2


@pytest.mark.parametrize("stack", [False, True])
def test_one_step_alone_can_be_seen(stack):
    (line,) = plot(chart({7: 3.0}, stacked=stack), [7], []).lines
    assert "h6" in line.path or "V" in line.path


def test_the_pointer_finds_every_step_with_its_values():
    drawn = plot(Chart("t", "", SHARE, [Series("cut", {1: 0.5, 3: 0.25})]), [1, 2, 3], [])
    assert [spot.title for spot in drawn.spots] == ["step 1\ncut 50%", "step 3\ncut 25%"]


def test_a_chart_says_in_words_how_its_lines_go():
    words = plot(Chart("KL", "", Unit("nats"), [Series("kl", {1: 0.5, 2: 3.0, 3: 2.0})]), [1, 2, 3], []).words
    assert words == "KL by step. kl: 0.5 nats at step 1, 2 nats at step 3, lowest 0.5 nats, highest 3 nats."


def test_a_mark_beyond_the_steps_that_are_done_is_at_the_edge():
    drawn = plot(chart({1: 1.0, 2: 2.0}), [1, 2], [Mark(0, "plain", ""), Mark(2, "plain", ""), Mark(3, "trouble", "")])
    assert [placed.x for placed in drawn.marks] == [LEFT, RIGHT, RIGHT]
