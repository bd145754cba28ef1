import io

import pytest
from rich.console import Console

from rayrlhf.algorithms.proportions import wilson_interval
from rayrlhf.feedback.summary import summarise
from rayrlhf.feedback.tables import show
from tests.unit.feedback.people import ask, correction, flag, ranking, rating, thumb


def judged(service, clock):
    """Version 2 beats 1 twice, ties once, on two days; nobody compares a version with itself to any effect."""
    for n, ranks in enumerate([(2, 1), (2, 1), (1, 1)]):
        [old] = ask(service, f"Why {n}?", "Because.", version=1)
        [new] = ask(service, f"Why {n}?", "Since.", version=2)
        service.comparison(ranking([old, new], ranks), "ada")
        if n == 0:
            service.feedback(thumb(new), "ada"), service.feedback(thumb(old, "down"), "ada")
            service.feedback(rating(new, 4), "ada"), service.feedback(rating(new, 5), "bob")
            service.comparison(ranking([old, new], (1, 2), both_bad=True), "bob")
        clock.advance(days=1 if n == 1 else 0)
    a, b = ask(service, "How?", "So.", "Thus.", version=2)
    service.comparison(ranking([a, b], (1, 2)), "ada")
    service.feedback(correction(a, "Hence."), "ada"), service.feedback(flag(b), "ada")


def test_a_win_is_one_a_tie_half_a_point_and_a_version_does_not_meet_itself(service, clock):
    judged(service, clock)
    old, new = summarise(service.store.snapshot()).versions
    assert (old.policy_version, old.wins.points, old.wins.trials) == (1, 1.5, 4)
    assert (new.policy_version, new.wins.points, new.wins.trials) == (2, 2.5, 4)
    assert (new.wins.low, new.wins.high) == pytest.approx(wilson_interval(2.5, 4))
    assert (new.thumbs_up.share, old.thumbs_up.share) == (1.0, 0.0)
    assert (new.mean_rating, new.ratings, old.mean_rating) == (4.5, 2, None)


def test_days_add_up_to_all_time(service, clock):
    judged(service, clock)
    summary = summarise(service.store.snapshot())
    assert [(str(r.day), r.policy_version, r.wins.trials) for r in summary.days] == [
        ("2026-03-01", 1, 3),
        ("2026-03-02", 1, 1),
        ("2026-03-01", 2, 3),
        ("2026-03-02", 2, 1),
    ]


def test_counts_are_of_what_counts(service, clock):
    judged(service, clock)
    counts = summarise(service.store.snapshot()).counts
    assert (counts.answers, counts.labellers, counts.thumbs, counts.ratings) == (8, 2, 2, 2)
    assert (counts.comparisons, counts.rankings, counts.with_ties, counts.both_bad) == (5, 0, 1, 1)
    assert (counts.corrections, counts.flags) == (1, 1)


def test_an_empty_store_has_a_summary_and_tables(service):
    summary = summarise(service.store.snapshot())
    assert summary.versions == ()
    show(summary, Console(file=io.StringIO()))


def test_the_tables_show_shares_with_intervals(service, clock):
    judged(service, clock)
    text = io.StringIO()
    show(summarise(service.store.snapshot()), Console(file=text, width=80))
    assert "62% [22, 91] of 4" in text.getvalue()
    assert "2026-03-02" in text.getvalue()
