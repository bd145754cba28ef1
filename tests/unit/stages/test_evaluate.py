import pytest

from rayrlhf.algorithms.preferences import wilson_interval
from rayrlhf.stages.evaluate import bootstrap_interval, win_rate


def test_wilson_interval_of_the_spec():
    assert wilson_interval(174, 300) == pytest.approx((0.523483, 0.634494), abs=1e-6)


def test_a_tie_is_half_a_win():
    verdict = win_rate([1.0, 2.0, 3.0, 0.0], [0.0, 2.0, 1.0, 5.0], [0, 0, 0, 0])
    assert verdict.share == pytest.approx((1 + 0.5 + 1 + 0) / 4)
    assert verdict.mean_gain == pytest.approx((1 + 0 + 2 - 5) / 4)


def test_like_length_looks_at_the_half_with_the_smallest_gaps():
    verdict = win_rate([1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0], [-50, 40, 1, -2])
    assert verdict.share == 0.5
    assert verdict.like_length_share == 0.0


def test_the_bootstrap_interval_covers_the_mean_and_repeats():
    values = [float(i % 7) for i in range(100)]
    low, high = bootstrap_interval(values, seed=0)
    assert low < sum(values) / 100 < high
    assert high - low == pytest.approx(2 * 1.96 * 2.0 / 10, rel=0.1)
    assert (low, high) == bootstrap_interval(values, seed=0)
