import sqlalchemy as sa

from rayrlhf.feedback import schema
from rayrlhf.feedback.export import Filters, comparison_rows, demonstration_rows
from tests.unit.feedback.people import ask, correction, flag, ranking, rating, thumb

USER = "mallory@example.org"
SECRET = "my-very-own-words"


def everything_of(service):
    """Two people: what the user was told and wrote, and what somebody else said about that."""
    a, b = ask(service, f"I say {SECRET}", f"You say {SECRET}", f"{SECRET} again", user=USER)
    c, d = ask(service, "Why?", "Because.", "Since.", user="bob")
    for answer in (a, c):
        service.feedback(thumb(answer), USER)
        service.feedback(rating(answer, 4), USER)
        service.feedback(rating(answer, 2), USER)
        service.feedback(correction(answer, f"{SECRET} corrected"), USER)
        service.feedback(flag(answer, note=f"{SECRET} note"), USER)
    service.comparison(ranking([a, b], [1, 2]), "bob")
    service.comparison(ranking([c, d], [1, 2], idempotency_key=SECRET), USER)
    service.feedback(correction(a, f"{SECRET} by bob"), "bob")
    service.feedback(flag(a, note=f"{SECRET} flagged by bob"), "bob")
    service.feedback(correction(c, "by bob"), "bob")
    service.store.next_task(USER)
    return a, b, c, d


def rows(service):
    with service.store.database.read() as connection:
        return {
            table.name: [tuple(row) for row in connection.execute(sa.select(table))]
            for table in schema.metadata.tables.values()
        }


def test_nothing_that_a_forgotten_user_wrote_was_told_or_is_called_stays(service):
    everything_of(service)
    assert USER in str(rows(service))
    service.store.forget(USER)
    assert USER not in str(rows(service))
    assert SECRET not in str(rows(service))


def test_no_byte_of_it_stays_in_the_files_of_sqlite(sqlite_service, tmp_path):
    everything_of(sqlite_service)
    sqlite_service.store.forget(USER)
    for file in tmp_path.glob("feedback.db*"):
        assert USER.encode() not in file.read_bytes(), file
        assert SECRET.encode() not in file.read_bytes(), file


def test_votes_of_a_forgotten_user_still_count_and_others_stay_whole(service):
    a, b, c, d = everything_of(service)
    service.store.forget(USER)
    snapshot = service.store.snapshot()
    assert sorted(vote.value for vote in snapshot.opinions if vote.kind == "rating") == [2, 2]
    assert {comparison.response_ids for comparison in snapshot.comparisons} == {(a, b), (c, d)}
    assert snapshot.answers[c].text == "Because."
    assert [vote.text for vote in snapshot.opinions if vote.kind == "correction"] == ["by bob"]
    assert [vote.reason for vote in snapshot.opinions if vote.kind == "flag"] == ["untrue"] * 3
    assert {comparison.user for comparison in snapshot.comparisons if comparison.user.startswith("forgotten-")}


def test_what_was_forgotten_is_in_no_export_and_no_task(service):
    a, _, c, d = everything_of(service)
    service.store.forget(USER)
    snapshot = service.store.snapshot()
    assert [row["response_ids"] for row in comparison_rows(snapshot, Filters())] == [[c, d]]
    assert [row["response_id"] for row in demonstration_rows(snapshot, Filters(), thumbs_up=True)] == [c, c]
    assert {answer.response_id for answer in service.store.next_task("carol").answers} == {c, d}
    assert service.store.next_task("carol") is None
    assert service.store.answer(a) is None


def test_two_forgotten_users_do_not_become_one(service):
    [answer] = ask(service, "Why?", "Because.")
    for user in ("ada", "bob"):
        service.feedback(thumb(answer), user)
        service.store.forget(user)
    assert len({vote.user for vote in service.store.snapshot().opinions}) == 2


def test_forgetting_somebody_unknown_changes_nothing(service):
    everything_of(service)
    before = rows(service)
    done = service.store.forget("nobody")
    assert (done.answers, done.opinions, done.comparisons, done.tasks) == (0, 0, 0, 0)
    assert rows(service) == before


def test_who_comes_back_begins_anew(service):
    [answer] = ask(service, "Why?", "Because.", user="bob")
    post = thumb(answer)
    first = service.feedback(post, USER)
    service.store.forget(USER)
    assert service.feedback(post, USER).id != first.id
