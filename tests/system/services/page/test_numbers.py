from tests.system.services.page.visitor import comparisons
from tests.unit.feedback.people import ask, ranking, rating, thumb


def judged(service):
    """Two versions, of which the second wins three times of four, and two labellers who agree on two of three pairs."""
    for n, (ada, bob) in enumerate([([2, 1], [2, 1]), ([2, 1], [1, 2]), ([1, 1], [1, 1]), ([2, 1], None)]):
        old = ask(service, f"Why {n}?", f"Old {n}.", version=1)
        new = ask(service, f"Why {n}?", f"New {n}.", version=2)
        for user, ranks in (("ada", ada), ("bob", bob)):
            if ranks is not None:
                service.comparison(ranking([*old, *new], ranks), user)
        service.feedback(thumb(new[0], "up"), "ada")
        service.feedback(thumb(old[0], "up" if n == 0 else "down"), "ada")
        service.feedback(rating(old[0], 3), "bob")


def tile(view, name):
    return view.locator(".tiles div", has=view.page.get_by_text(name, exact=True)).locator("dd")


def test_a_labeller_sees_their_own_progress(visit, site, eventually):
    ask(site.service, "Why?", "Because.", "No idea.")
    ada = visit()
    ada.see("compare")
    ada.shown()
    ada.press("1")
    ada.said("A is better: stored.")
    ada.see("chat")
    ada.ask("Hello")
    ada.answer_done()
    ada.button("Good answer").click()
    ada.said("Vote stored.")
    progress = ada.see("progress")
    progress.get_by_text("of 2,000 posts").wait_for()
    assert tile(progress, "Comparisons and rankings").inner_text() == "1"
    assert tile(progress, "Votes, corrections and flags").inner_text() == "1"
    assert tile(progress, "Decisions stored").inner_text() == "1"
    assert progress.locator("progress").get_attribute("value") == str(2 / 2000)
    assert len(comparisons(site)) == 1


def test_an_admin_sees_everybodys_numbers(visit, site):
    judged(site.service)
    view = visit("eve", "admin").see("overview")
    view.locator("svg[role=img]").first.wait_for()
    assert tile(view, "Comparisons").inner_text() == "7"
    assert tile(view, "People who judged").inner_text() == "2"
    assert tile(view, "Pairs judged by two or more").inner_text() == "3"
    assert tile(view, "Agree, ties counted").inner_text() == "67 %"


def test_charts_have_words_and_the_same_numbers_as_a_table(visit, site):
    judged(site.service)
    view = visit("eve", "admin").see("overview")
    chart = view.locator(".chart", has_text="Wins against other versions").first
    chart.locator("svg[role=img]").wait_for()
    # Of 7 pairs version 2 has won 4, lost 1 and tied 2: 5 points of 7.
    words = chart.locator("svg[role=img]").get_attribute("aria-label")
    assert "version 2: 71 % of 7, between" in words
    assert "version 1: 29 % of 7, between" in words
    chart.locator("summary").click()
    rows = chart.locator("tbody tr").all_inner_texts()
    assert [row.split("\t")[:2] for row in rows] == [["version 1", "29 %"], ["version 2", "71 %"]]
    assert view.locator("figure").count() == 4


def test_an_overview_of_an_empty_store_says_that_there_is_nothing(visit):
    view = visit("eve", "admin").see("overview")
    view.get_by_text("Nothing has been judged by two people yet.").wait_for()
    assert view.get_by_text("Nothing yet.").count() == 4
