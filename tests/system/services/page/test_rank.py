import pytest

from tests.system.services.page.visitor import PHONE, comparisons, leased_order, texts_of
from tests.unit.feedback.people import ask

LETTERS = "ABCDEFGHI"


@pytest.fixture
def ranking(visit, site):
    """Somebody in front of four answers."""
    ask(site.service, "Why?", *"pqrs")
    ada = visit()
    ada.see("rank")
    ada.shown("rank")
    return ada


def card(visitor, letter):
    return visitor.tab.locator(f".rank [data-item='{LETTERS.index(letter)}']")


def order(visitor):
    return visitor.tab.locator(".rank .order").inner_text()


def stored(site, eventually):
    [comparison] = eventually(lambda: comparisons(site))
    return comparison


def centre(locator):
    box = locator.bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def drag(visitor, letter, x, y):
    mouse = visitor.tab.mouse
    card(visitor, letter).scroll_into_view_if_needed()
    mouse.move(*centre(card(visitor, letter).locator(".grip")))
    mouse.down()
    mouse.move(x, y, steps=6)
    mouse.up()


def test_answers_are_ranked_by_drag(ranking, site, eventually):
    shown = ranking.shown("rank")
    drag(ranking, "B", *centre(ranking.tab.locator(".gap")))
    # Below the last tier, in the gap above it, and on it.
    drag(ranking, "A", *centre(ranking.tab.locator(".gap").last))
    drag(ranking, "D", *centre(ranking.tab.locator(".gap").nth(1)))
    drag(ranking, "C", *centre(ranking.tab.locator(".tier").nth(1)))
    assert order(ranking) == "B › D = C › A"
    ranking.button("Store ranking").click()
    comparison = stored(site, eventually)
    assert comparison.ranks == (3, 1, 2, 2)
    assert texts_of(site, comparison.response_ids) == shown
    assert list(comparison.response_ids) == leased_order(site)


def test_a_drag_can_take_an_answer_out_again_and_escape_undoes_one(ranking):
    drag(ranking, "A", *centre(ranking.tab.locator(".gap")))
    drag(ranking, "A", *centre(ranking.tab.locator(".tray")))
    assert order(ranking) == "Put each answer at its rank."
    mouse = ranking.tab.mouse
    mouse.move(*centre(card(ranking, "A").locator(".grip")))
    mouse.down()
    mouse.move(*centre(ranking.tab.locator(".gap")), steps=4)
    ranking.tab.locator(".gap.aimed").wait_for()
    ranking.press("Escape")
    mouse.up()
    assert order(ranking) == "Put each answer at its rank."
    assert ranking.tab.locator(".dragged, .aimed").count() == 0


def test_answers_are_ranked_by_digits_alone(ranking, site, eventually):
    ranking.press("ArrowDown")
    ranking.press("1", "1", "2", "4")
    assert order(ranking) == "B › C › A › D"
    ranking.press("Enter")
    assert stored(site, eventually).ranks == (3, 1, 2, 4)


def test_an_answer_is_held_with_space_and_moved_by_half_steps_which_are_announced(ranking, site, eventually):
    card(ranking, "A").focus()
    ranking.press("1", "2", "3", "4")
    card(ranking, "D").focus()
    ranking.press("Space")
    ranking.said("Answer D is held, rank 4 of 4. Arrow keys move it")
    ranking.press("ArrowUp")
    ranking.said("Answer D: rank 3 of 3, tied with C.")
    ranking.press("ArrowUp")
    ranking.said("Answer D: rank 3 of 4.")
    ranking.press("ArrowUp")
    ranking.said("Answer D: rank 2 of 3, tied with B.")
    assert (
        ranking.tab.evaluate("document.activeElement.getAttribute('aria-label')")
        == "Answer D, rank 2 of 3, tied with B"
    )
    ranking.press("Enter")
    assert comparisons(site) == [], "an answer that is held is not let go by accident"
    ranking.press("Space")
    ranking.said("Answer D let go: rank 2 of 3, tied with B.")
    ranking.press("Enter")
    assert stored(site, eventually).ranks == (1, 2, 3, 2)


def test_escape_puts_a_held_answer_back(ranking):
    card(ranking, "A").focus()
    ranking.press("1", "2", "3", "4")
    card(ranking, "C").focus()
    ranking.press("Space", "ArrowUp", "ArrowUp", "ArrowUp", "ArrowUp", "Escape")
    ranking.said("Answer C is back: rank 3 of 4.")
    assert order(ranking) == "A › B › C › D"


def test_ties_are_made_and_ended_by_key(ranking, site, eventually):
    card(ranking, "A").focus()
    ranking.press("1", "2", "3", "4")
    card(ranking, "B").focus()
    ranking.press("t")
    card(ranking, "C").focus()
    ranking.press("t")
    assert order(ranking) == "A = B = C › D"
    card(ranking, "B").focus()
    ranking.press("t")
    assert order(ranking) == "A = C › B › D"
    ranking.tab.get_by_label("None is acceptable").check()
    ranking.button("Store ranking").click()
    comparison = stored(site, eventually)
    assert (comparison.ranks, comparison.both_bad) == ((1, 2, 1, 3), True)


def test_answers_are_ranked_by_buttons(ranking, site, eventually):
    for name in (
        "Put answer A at rank 1",
        "Put answer B at rank 1",
        "Put answer C at rank 3",
        "Put answer D at rank 2",
    ):
        ranking.button(name).click()
    assert order(ranking) == "B › D › A › C"
    ranking.button("Move C up").click()
    ranking.button("Move B down").click()
    assert order(ranking) == "D = B › A = C"
    ranking.button("Take D out of the ranking").click()
    assert order(ranking) == "B › A = C (1 to go)"
    assert ranking.button("Store ranking").is_disabled()
    ranking.press("Enter")
    assert comparisons(site) == []


def test_what_is_half_ranked_outlives_a_reload(ranking):
    shown = ranking.shown("rank")
    card(ranking, "C").focus()
    ranking.press("1")
    card(ranking, "A").focus()
    ranking.press("1")
    ranking.tab.reload()
    ranking.tab.locator(".rank .tier").first.wait_for()
    assert order(ranking) == "A › C (2 to go)"
    texts = {letter: card(ranking, letter).locator(".text").inner_text() for letter in "ABCD"}
    assert list(texts.values()) == shown


def test_a_ranking_can_be_changed_afterwards(ranking, site, eventually):
    card(ranking, "A").focus()
    ranking.press("1", "2", "3", "4", "Enter")
    ranking.tab.get_by_text("Nothing is waiting for you").wait_for()
    ranking.press("u")
    ranking.shown("rank")
    assert order(ranking) == "A › B › C › D"
    card(ranking, "D").focus()
    ranking.press("1", "Enter")
    eventually(lambda: [one.ranks for one in comparisons(site)] == [(2, 3, 4, 1)])


def test_nine_answers_are_ranked(visit, site, eventually):
    ask(site.service, "Why?", *"pqrstuvwx")
    ada = visit()
    ada.see("rank")
    ada.shown("rank")
    ada.tab.get_by_label("Answers to rank").select_option("9")
    ada.tab.wait_for_function("() => document.querySelectorAll('.rank .answer').length === 9")
    ada.shown("rank")
    card(ada, "A").focus()
    ada.press(*"123456789", "Enter")
    assert stored(site, eventually).ranks == tuple(range(1, 10))
    # The one with four, which was open before, comes back.
    assert len(ada.shown("rank")) == 4


def test_five_new_answers_to_a_question_of_ones_own(visit, site, eventually):
    ada = visit()
    ada.see("rank")
    ada.tab.get_by_label("Answers to rank").select_option("5")
    ada.tab.get_by_text("Ask something yourself", exact=True).locator("visible=true").click()
    ada.tab.get_by_label("Your question").locator("visible=true").fill("What is love?")
    ada.button("Get 5 answers").click()
    assert len(ada.shown("rank")) == 5


def test_a_finger_drags_on_a_phone(visit, site, eventually):
    ask(site.service, "Why?", *"pqrs")
    ada = visit(**PHONE)
    ada.see("rank")
    ada.shown("rank")
    for letter in "ABC":
        ada.button(f"Put answer {letter} at rank 1").tap()
    ada.button("Put answer D at rank 4").tap()
    assert order(ada) == "C › B › A › D"
    touch = ada.context.new_cdp_session(ada.tab)
    # The gaps are measured when D is in sight and nothing scrolls any more.
    card(ada, "A").scroll_into_view_if_needed()
    x, y = centre(card(ada, "A").locator(".grip"))
    to_x, to_y = centre(ada.tab.locator(".tier").nth(1))
    touch.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [{"x": x, "y": y}]})
    for part in (0.3, 0.6, 1.0):
        point = {"x": x + part * (to_x - x), "y": y + part * (to_y - y)}
        touch.send("Input.dispatchTouchEvent", {"type": "touchMove", "touchPoints": [point]})
    touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    eventually(lambda: order(ada) == "C › B = A › D")
