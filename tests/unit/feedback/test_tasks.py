import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa

from rayrlhf.errors import RequestRefusedError
from rayrlhf.feedback.schema import task_answers, tasks
from rayrlhf.feedback.tasks import TaskSettings
from tests.unit.feedback.people import ask, ranking, service_at


def ids(task):
    return [answer.response_id for answer in task.answers]


def judge(service, task, user, ranks=None):
    ranks = ranks or range(1, len(task.answers) + 1)
    return service.comparison(ranking(ids(task), ranks, task_id=task.id), user)


def test_a_task_is_answers_to_one_prompt(service):
    ask(service, "Why?", "Because."), ask(service, "How?", "So.")
    both = ask(service, "When?", "Now.", "Then.")
    task = service.store.next_task("ada")
    assert sorted(ids(task)) == sorted(both)
    assert task.conversation[0].content == "When?"


def test_answers_with_the_same_text_are_not_compared(service):
    ask(service, "Why?", "Because.", "Because.")
    assert service.store.next_task("ada") is None


def test_a_labeller_never_gets_the_same_answers_twice(service):
    ask(service, "Why?", "1", "2", "3")
    seen = []
    while (task := service.store.next_task("ada")) is not None:
        seen.append(frozenset(ids(task)))
        judge(service, task, "ada")
    assert len(seen) == len(set(seen)) == 3
    assert service.store.next_task("bob") is not None


def test_two_tabs_do_not_get_the_same_task(service):
    ask(service, "Why?", "1", "2", "3"), ask(service, "How?", "1", "2", "3")
    with ThreadPoolExecutor(8) as pool:
        given = list(pool.map(lambda _: service.store.next_task("ada"), range(8)))
    sets = [frozenset(ids(task)) for task in given if task is not None]
    assert len(sets) == len(set(sets)) == 6


def test_a_task_that_was_not_answered_comes_back_after_its_lease_in_the_same_order(service, clock):
    ask(service, "Why?", "1", "2")
    first = service.store.next_task("ada")
    assert service.store.next_task("ada") is None
    clock.advance(seconds=TaskSettings().lease_s + 1)
    second = service.store.next_task("ada")
    assert (second.id, second.answers) == (first.id, first.answers)
    assert second.leased_until > first.leased_until


def test_the_least_judged_prompt_and_answers_come_first(service):
    judged = ask(service, "Why?", "1", "2")
    service.comparison(ranking(judged, [1, 2]), "bob")
    fresh = ask(service, "How?", "1", "2", "3")
    service.comparison(ranking(fresh[:2], [1, 2]), "bob")
    service.comparison(ranking(judged, [1, 2]), "carol")
    task = service.store.next_task("ada")
    assert fresh[2] in ids(task)
    judge(service, task, "ada")
    assert set(ids(service.store.next_task("ada"))) < set(fresh)


def test_the_order_that_is_shown_is_recorded_with_its_seed(service):
    ask(service, "Why?", *"12345")
    task = service.store.next_task("ada", 5)
    with service.store.database.read() as connection:
        order = sa.select(task_answers.c.response_id).order_by(task_answers.c.position)
        assert list(connection.execute(order).scalars()) == ids(task)
        seed = connection.execute(sa.select(tasks.c.seed)).scalar_one()
    again = sorted(ids(task))
    random.Random(seed).shuffle(again)
    assert again == ids(task)


def test_every_answer_is_shown_at_every_place_equally_often(sqlite_service):
    a, b = sorted(ask(sqlite_service, "Why?", "1", "2"))
    first = Counter(ids(sqlite_service.store.next_task(f"labeller-{n}"))[0] for n in range(400))
    # 400 fair draws: the standard deviation is 10, so five of them.
    assert set(first) == {a, b}
    assert abs(first[a] - 200) < 50


def test_rankings_are_shown_in_every_order(sqlite_service):
    answers = ask(sqlite_service, "Why?", "1", "2", "3")
    orders = Counter(tuple(ids(sqlite_service.store.next_task(f"labeller-{n}", 3))) for n in range(300))
    assert len(orders) == 6
    # Each of 6 orders is expected 50 times; five standard deviations are 32.
    assert all(abs(times - 50) < 32 for times in orders.values())
    assert {frozenset(order) for order in orders} == {frozenset(answers)}


def test_another_seed_is_another_order(tmp_path, clock):
    orders = []
    with service_at(str(tmp_path / "feedback.db"), tmp_path, clock) as service:
        ask(service, "Why?", *"123456789")
    for seed in range(3):
        settings = TaskSettings(seed=seed)
        with service_at(str(tmp_path / "feedback.db"), tmp_path, clock, tasks=settings) as service:
            orders.append(ids(service.store.next_task(f"labeller-{seed}", 9)))
    assert len({tuple(order) for order in orders}) == 3


def test_a_task_is_answered_by_whom_it_was_given_to(service):
    ask(service, "Why?", "1", "2")
    with pytest.raises(RequestRefusedError, match="no such task"):
        judge(service, service.store.next_task("ada"), "bob")


def test_a_task_is_answered_in_the_order_in_which_it_was_shown(service):
    ask(service, "Why?", "1", "2")
    task = service.store.next_task("ada")
    with pytest.raises(RequestRefusedError, match="order in which they were shown") as refused:
        service.comparison(ranking(ids(task)[::-1], [1, 2], task_id=task.id), "ada")
    assert refused.value.status == 409


@pytest.mark.parametrize("count", [-1, 0, 1, 10])
def test_a_task_has_two_to_nine_answers(service, count):
    with pytest.raises(RequestRefusedError, match="2 to 9"):
        service.store.next_task("ada", count)


def test_progress_counts_open_tasks_until_they_are_answered(service):
    ask(service, "Why?", "1", "2")
    task = service.store.next_task("ada")
    assert service.store.progress("ada").tasks_open == 1
    judge(service, task, "ada")
    progress = service.store.progress("ada")
    assert (progress.tasks_open, progress.comparisons, progress.posts_today) == (0, 1, 1)


def test_new_answers_are_leased_to_the_one_who_asked_in_an_order_that_is_kept(service):
    answers = ask(service, "Why?", *(str(n) for n in range(6)))
    task = service.store.lease_answers("ada", answers)
    assert sorted(ids(task)) == sorted(answers)
    assert ids(service.store.lease_answers("ada", answers[::-1])) == ids(task)
    judge(service, task, "ada")
    assert service.store.next_task("bob", 6) is not None


def test_only_answers_that_are_there_and_belong_together_are_leased(service):
    mixed = [*ask(service, "Why?", "1"), *ask(service, "How?", "1")]
    for wrong in (mixed, [mixed[0], "unknown"]):
        with pytest.raises(RequestRefusedError, match="same conversation"):
            service.store.lease_answers("ada", wrong)
