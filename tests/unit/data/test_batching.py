import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayrlhf.data.batching import micro_batches, shuffled_minibatches, split_among_ranks

lengths = st.lists(st.integers(1, 50), min_size=1, max_size=60)


@given(lengths, st.integers(50, 400))
def test_micro_batches_hold_every_row_once_within_the_token_budget(rows, budget):
    groups = micro_batches(rows, budget)
    assert sorted(i for group in groups for i in group) == list(range(len(rows)))
    assert all(len(group) * max(rows[i] for i in group) <= budget for group in groups)


@given(lengths, st.integers(1, 8))
def test_ranks_share_every_row_once_and_are_balanced(rows, ranks):
    shares = split_among_ranks(rows, ranks)
    assert sorted(i for share in shares for i in share) == list(range(len(rows)))
    loads = [sum(rows[i] for i in share) for share in shares]
    assert max(loads) - min(loads) <= max(rows)


def test_a_row_over_the_budget_is_refused():
    with pytest.raises(ValueError, match="does not fit"):
        micro_batches([10], 9)


def test_minibatches_depend_on_the_seed_alone():
    random.seed(1)
    first = shuffled_minibatches(20, 4, "a")
    random.seed(2)
    assert shuffled_minibatches(20, 4, "a") == first
    assert shuffled_minibatches(20, 4, "b") != first
