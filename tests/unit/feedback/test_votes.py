from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa

from rayrlhf.errors import RequestRefusedError
from rayrlhf.feedback.caps import Caps
from rayrlhf.feedback.schema import comparisons, opinions, posts
from tests.unit.feedback.people import ask, correction, flag, ranking, rating, service_at, thumb


def count(service, table):
    with service.store.database.read() as connection:
        return connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one()


def test_the_same_post_sent_again_is_the_first_record(service):
    [answer] = ask(service, "Why?", "Because.")
    post = thumb(answer, idempotency_key="once")
    first, second = service.feedback(post, "ada"), service.feedback(post, "ada")
    assert (first.is_new, second.is_new) == (True, False)
    assert first.id == second.id
    assert count(service, opinions) == 1


def test_the_same_key_of_two_users_is_two_posts(service):
    [answer] = ask(service, "Why?", "Because.")
    post = thumb(answer, idempotency_key="once")
    assert service.feedback(post, "ada").id != service.feedback(post, "bob").id


def test_a_key_that_was_used_for_another_post_is_refused(service):
    [answer] = ask(service, "Why?", "Because.")
    service.feedback(thumb(answer, "up", idempotency_key="once"), "ada")
    with pytest.raises(RequestRefusedError, match="idempotency_key") as refused:
        service.feedback(thumb(answer, "down", idempotency_key="once"), "ada")
    assert refused.value.status == 409


def test_the_same_vote_under_another_key_is_the_first_record(service):
    [answer] = ask(service, "Why?", "Because.")
    first, second = service.feedback(rating(answer, 4), "ada"), service.feedback(rating(answer, 4), "ada")
    assert first.id == second.id
    assert not second.is_new


def test_the_latest_vote_counts_and_the_earlier_ones_are_kept(service):
    [answer] = ask(service, "Why?", "Because.")
    first = service.feedback(thumb(answer, "up"), "ada")
    second = service.feedback(thumb(answer, "down"), "ada")
    assert second.is_new
    assert second.id != first.id
    assert [(vote.id, vote.value) for vote in service.store.snapshot().opinions] == [(second.id, -1)]
    with service.store.database.read() as connection:
        old = connection.execute(sa.select(opinions).filter_by(id=first.id)).one()
    assert (old.value, old.superseded_by) == (1, second.id)


def test_a_late_repeat_of_a_superseded_post_changes_nothing(service):
    [answer] = ask(service, "Why?", "Because.")
    up = thumb(answer, "up")
    service.feedback(up, "ada")
    service.feedback(thumb(answer, "down"), "ada")
    assert not service.feedback(up, "ada").is_new
    assert [vote.value for vote in service.store.snapshot().opinions] == [-1]


def test_a_late_repeat_of_an_equal_vote_under_another_key_changes_nothing(service):
    [answer] = ask(service, "Why?", "Because.")
    service.feedback(thumb(answer, "up"), "ada")
    again = thumb(answer, "up", idempotency_key="second click")
    service.feedback(again, "ada")
    service.feedback(thumb(answer, "down"), "ada")
    service.feedback(again, "ada")
    assert [vote.value for vote in service.store.snapshot().opinions] == [-1]


def test_kinds_do_not_replace_each_other(service):
    [answer] = ask(service, "Why?", "Because.")
    for post in (thumb(answer), rating(answer, 5), correction(answer, "Since."), flag(answer)):
        assert service.feedback(post, "ada").is_new
    assert {vote.kind for vote in service.store.snapshot().opinions} == {"thumb", "rating", "correction", "flag"}


def test_the_same_ranks_in_another_order_are_the_first_record(service):
    a, b = ask(service, "Why?", "Because.", "Since.")
    first = service.comparison(ranking([a, b], [1, 2]), "ada")
    second = service.comparison(ranking([b, a], [2, 1]), "ada")
    assert (second.id, second.is_new) == (first.id, False)


def test_other_ranks_of_the_same_answers_replace_the_first_which_is_kept(service):
    a, b = ask(service, "Why?", "Because.", "Since.")
    service.comparison(ranking([a, b], [1, 2]), "ada")
    second = service.comparison(ranking([a, b], [1, 1], both_bad=True), "ada")
    [counts] = service.store.snapshot().comparisons
    assert (counts.id, counts.ranks, counts.both_bad) == (second.id, (1, 1), True)
    assert count(service, comparisons) == 2


def test_the_order_in_which_answers_were_shown_is_kept(service):
    ids = ask(service, "Why?", "1", "2", "3", "4")
    shown = [ids[2], ids[0], ids[3], ids[1]]
    service.comparison(ranking(shown, [2, 1, 2, 4]), "ada")
    [stored] = service.store.snapshot().comparisons
    assert (stored.response_ids, stored.ranks) == (tuple(shown), (2, 1, 2, 4))


def test_answers_to_two_prompts_are_not_compared(service):
    [a], [b] = ask(service, "Why?", "Because."), ask(service, "How?", "So.")
    with pytest.raises(RequestRefusedError, match="same conversation"):
        service.comparison(ranking([a, b], [1, 2]), "ada")


def test_thirty_threads_with_the_same_post_make_one_record(service):
    [answer] = ask(service, "Why?", "Because.")
    post = thumb(answer)
    with ThreadPoolExecutor(30) as pool:
        receipts = list(pool.map(lambda _: service.feedback(post, "ada"), range(30)))
    assert len({receipt.id for receipt in receipts}) == 1
    assert sum(receipt.is_new for receipt in receipts) == 1
    assert count(service, opinions) == count(service, posts) == 1


def test_threads_that_contradict_each_other_leave_one_vote_that_counts(service):
    [answer] = ask(service, "Why?", "Because.")
    with ThreadPoolExecutor(10) as pool:
        list(pool.map(lambda n: service.feedback(rating(answer, n % 5 + 1), "ada"), range(10)))
    assert len(service.store.snapshot().opinions) == 1


def test_two_replicas_share_one_store(store_url, tmp_path, clock):
    with service_at(store_url, tmp_path, clock) as one, service_at(store_url, tmp_path, clock) as other:
        [answer] = ask(one, "Why?", "Because.")
        post = thumb(answer)
        with ThreadPoolExecutor(8) as pool:
            receipts = list(pool.map(lambda n: (one, other)[n % 2].feedback(post, "ada"), range(16)))
        assert len({receipt.id for receipt in receipts}) == 1


def test_a_day_takes_so_many_posts_of_one_user(store_url, tmp_path, clock):
    with service_at(store_url, tmp_path, clock, caps=Caps(posts_per_day=3)) as service:
        answers = ask(service, "Why?", *"abcd")
        for answer in answers[:3]:
            service.feedback(thumb(answer), "ada")
        with pytest.raises(RequestRefusedError, match="3 posts a day") as refused:
            service.feedback(thumb(answers[3]), "ada")
        assert (refused.value.status, refused.value.code) == (429, "daily_cap_reached")
        assert refused.value.retry_after_s == 12 * 3600 + 1
        service.feedback(thumb(answers[3]), "bob")
        clock.advance(hours=12)
        service.feedback(thumb(answers[3]), "ada")


def test_a_repeat_does_not_count_against_the_cap_of_a_day(store_url, tmp_path, clock):
    with service_at(store_url, tmp_path, clock, caps=Caps(posts_per_day=1)) as service:
        [answer] = ask(service, "Why?", "Because.")
        post = thumb(answer)
        service.feedback(post, "ada")
        assert not service.feedback(post, "ada").is_new


def test_one_answer_takes_so_many_records_of_one_user(store_url, tmp_path, clock):
    with service_at(store_url, tmp_path, clock, caps=Caps(records_per_answer=3)) as service:
        a, b = ask(service, "Why?", "Because.", "Since.")
        service.comparison(ranking([a, b], [1, 2]), "ada")
        service.feedback(thumb(a, "up"), "ada")
        service.feedback(thumb(a, "down"), "ada")
        with pytest.raises(RequestRefusedError) as refused:
            service.feedback(thumb(a, "up"), "ada")
        assert refused.value.code == "answer_cap_reached"
        service.feedback(thumb(b, "up"), "ada")


def test_threads_do_not_get_past_the_cap_together(store_url, tmp_path, clock):
    with service_at(store_url, tmp_path, clock, caps=Caps(posts_per_day=5)) as service:
        answers = ask(service, "Why?", *map(str, range(12)))

        def post(answer):
            try:
                return service.feedback(thumb(answer), "ada").is_new
            except RequestRefusedError:
                return False

        with ThreadPoolExecutor(12) as pool:
            assert sum(pool.map(post, answers)) == 5


def test_feedback_about_an_answer_that_was_never_stored_is_refused(service):
    turns = service.store.answer(ask(service, "Why?", "Because.")[0]).conversation
    signed = service.keys.sign(turns, "Never given.", 1)
    with pytest.raises(RequestRefusedError, match="no such answer") as refused:
        service.feedback(thumb(signed), "ada")
    assert refused.value.status == 404
