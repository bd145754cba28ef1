import pytest

from rayrlhf.feedback.agreement import agreement, agreement_of, equal_share, krippendorff_alpha, labels_of
from rayrlhf.feedback.reading import StoredComparison
from tests.unit.feedback.people import START


def compared(user, ids, ranks):
    return StoredComparison("id", user, tuple(ids), tuple(ranks), False, START)


def test_krippendorffs_own_example():
    """Four observers, twelve units, missing data: "Computing Krippendorff's Alpha-Reliability" (2011), 0.743."""
    observers = [
        (1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None),
        (1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3),
        (None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None),
        (1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None),
    ]
    units = [[label for label in unit if label is not None] for unit in zip(*observers, strict=True)]
    assert krippendorff_alpha(units) == pytest.approx(0.743, abs=5e-4)


def test_alpha_by_hand():
    # Labels 1,1 | 1,0 | 0,0: n = 6, n_1 = n_0 = 3; observed disagreement 2 (1,0 and 0,1), by chance 2·3·3 = 18.
    # alpha = 1 - 5 · 2 / 18.
    assert krippendorff_alpha([[1, 1], [1, 0], [0, 0]]) == pytest.approx(1 - 10 / 18)


def test_alpha_is_one_for_perfect_agreement_and_below_zero_for_perfect_disagreement():
    assert krippendorff_alpha([[1, 1], [-1, -1], [0, 0]]) == 1
    assert krippendorff_alpha([[1, -1], [-1, 1]]) == pytest.approx(1 - 3 * 4 / 8)


@pytest.mark.parametrize("units", [[], [[1]], [[1], [0], [-1]], [[1, 1], [1, 1]]])
def test_alpha_needs_units_that_are_judged_twice_and_labels_that_differ(units):
    assert krippendorff_alpha(units) is None


def test_a_tie_agrees_with_a_tie_only():
    assert equal_share([[0, 0], [0, 1]]) == 0.5
    found = agreement([[0, 0], [0, 1], [1, 1], [1, -1], [1]])
    assert (found.pairs_judged_twice, found.share, found.share_without_ties) == (4, 0.5, 0.5)


def test_three_labellers_make_three_pairs_of_labels():
    assert equal_share([[1, 1, -1]]) == pytest.approx(1 / 3)


def test_a_ranking_labels_each_of_its_pairs_whatever_the_order_shown():
    labels = labels_of([compared("ada", "bca", (1, 2, 2)), compared("bob", "ab", (2, 1))])
    assert labels == {("a", "b"): {"ada": -1, "bob": -1}, ("a", "c"): {"ada": 0}, ("b", "c"): {"ada": 1}}


def test_agreement_of_a_comparison_is_with_others():
    everything = [
        compared("ada", "ab", (1, 2)),
        compared("bob", "ab", (1, 2)),
        compared("carol", "ab", (2, 1)),
        compared("ada", "cd", (1, 1)),
    ]
    labels = labels_of(everything)
    assert [agreement_of(one, labels) for one in everything] == [0.5, 0.5, 0.0, None]
