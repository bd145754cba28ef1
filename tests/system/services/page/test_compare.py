import pytest

from tests.system.services.page.visitor import comparisons, leased_order, opinions, texts_of
from tests.unit.feedback.people import ask


def one_task(site, *texts):
    return ask(site.service, "Why?", *(texts or ("Because.", "No idea.")))


@pytest.mark.parametrize(
    ("key", "ranks", "both_bad"),
    [
        ("1", (1, 2), False), ("ArrowLeft", (1, 2), False), ("2", (2, 1), False), ("ArrowRight", (2, 1), False),
        ("t", (1, 1), False), ("b", (1, 1), True),
    ],
)  # fmt: skip
def test_a_key_decides(visit, site, eventually, key, ranks, both_bad):
    one_task(site)
    ada = visit()
    ada.see("compare")
    ada.shown()
    ada.press(key)
    [stored] = eventually(lambda: comparisons(site))
    assert (stored.ranks, stored.both_bad, stored.user) == (ranks, both_bad, "ada")
    ada.tab.get_by_text("Nothing is waiting for you").wait_for()


@pytest.mark.parametrize(
    ("name", "ranks", "both_bad"),
    [
        ("A is better", (1, 2), False),
        ("B is better", (2, 1), False),
        ("Tie", (1, 1), False),
        ("Both bad", (1, 1), True),
    ],
)
def test_a_button_decides(visit, site, eventually, name, ranks, both_bad):
    one_task(site)
    ada = visit()
    ada.see("compare")
    ada.shown()
    ada.button(name).click()
    [stored] = eventually(lambda: comparisons(site))
    assert (stored.ranks, stored.both_bad) == (ranks, both_bad)


def test_the_order_on_the_screen_is_the_one_that_was_drawn_and_the_one_that_is_stored(visit, site, eventually):
    firsts = set()
    one_task(site)
    for user in ("ada", "bob", "carol", "dan", "eve", "fred"):
        visitor = visit(user)
        visitor.see("compare")
        shown = visitor.shown()
        visitor.press("1")
        [stored] = eventually(lambda user=user: [one for one in comparisons(site) if one.user == user])
        assert texts_of(site, stored.response_ids) == shown
        firsts.add(shown[0])
        assert list(stored.response_ids) in [
            leased_order(site)[n : n + 2] for n in range(0, len(leased_order(site)), 2)
        ]
    assert firsts == {"Because.", "No idea."}


def test_a_decision_leads_to_the_next_task_and_the_focus_to_its_heading(visit, site, eventually):
    one_task(site), ask(site.service, "How?", "So.", "Like this.")
    ada = visit()
    ada.see("compare")
    first = ada.shown()
    ada.press("2")
    ada.said("B is better: stored.")
    ada.tab.wait_for_function("first => !document.querySelector('.compare').innerText.includes(first)", arg=first[0])
    assert set(ada.shown()) & set(first) == set()
    assert ada.tab.evaluate("document.activeElement.textContent") == "Which answer is better?"
    ada.press("t")
    eventually(lambda: len(comparisons(site)) == 2)


def test_the_version_that_wrote_an_answer_is_not_in_the_page(visit, site):
    ask(site.service, "Why?", "Because.", version=71)
    ask(site.service, "Why?", "No idea.", version=72)
    ada = visit()
    sent = []
    ada.tab.on("response", lambda response: "/v1/tasks" in response.url and sent.append(response.text()))
    ada.see("compare")
    ada.shown()
    assert sent
    assert "version" not in ada.tab.locator(".compare").inner_html()
    assert "version" not in "".join(sent)


def test_a_double_press_decides_about_what_was_read_only(visit, site, eventually):
    one_task(site), ask(site.service, "How?", "So.", "Like this.")
    ada = visit()
    ada.see("compare")
    ada.shown()
    ada.tab.keyboard.down("1")
    ada.said("A is better: stored.")
    ada.tab.wait_for_timeout(300)
    ada.tab.keyboard.down("1")
    ada.tab.keyboard.up("1")
    ada.shown()
    assert len(comparisons(site)) == 1
    ada.press("t", "t")
    eventually(lambda: [one.ranks for one in comparisons(site)] == [(1, 2), (1, 1)])


def test_skipping_stores_nothing(visit, site):
    one_task(site)
    ada = visit()
    ada.see("compare")
    ada.shown()
    ada.press("s")
    ada.tab.get_by_text("Nothing is waiting for you").wait_for()
    assert comparisons(site) == []


def test_the_last_decision_can_be_changed_and_the_new_one_counts(visit, site, eventually):
    one_task(site)
    ada = visit()
    ada.see("compare")
    shown = ada.shown()
    ada.press("1")
    ada.tab.get_by_text("Nothing is waiting for you").wait_for()
    ada.press("u")
    assert ada.shown() == shown
    assert ada.button("A is better").get_attribute("aria-pressed") == "true"
    ada.press("2")
    eventually(lambda: [one.ranks for one in comparisons(site)] == [(2, 1)])


def test_a_task_outlives_a_reload(visit, site, eventually):
    one_task(site)
    ada = visit()
    ada.see("compare")
    shown = ada.shown()
    ada.tab.reload()
    assert ada.shown() == shown
    ada.press("1")
    [stored] = eventually(lambda: comparisons(site))
    assert texts_of(site, stored.response_ids) == shown


def test_a_question_of_ones_own_gets_two_answers_of_two_versions(visit, site, eventually):
    ada = visit()
    ada.see("compare")
    ada.tab.get_by_text("Ask something yourself", exact=True).click()
    ada.tab.get_by_label("Your question").fill("What is love?")
    ada.button("Get 2 answers").click()
    assert sorted(ada.shown()) == ["1. You asked: What is love?", "2. You asked: What is love?"]
    ada.press("1")
    [stored] = eventually(lambda: comparisons(site))
    answers = site.service.store.snapshot().answers
    assert {answers[response_id].policy_version for response_id in stored.response_ids} == {1, 2}
    assert list(stored.response_ids) == leased_order(site)


def test_a_chat_can_go_on_with_two_answers(visit, site):
    ada = visit()
    ada.ask("One?")
    ada.answer_done()
    ada.tab.get_by_label("Your message").fill("Two?")
    ada.button("Two answers").click()
    ada.shown()
    texts = ada.tab.locator(".compare .conversation .text").all_inner_texts()
    assert texts == ["One?", "1. You asked: One?", "Two?"]


def test_answers_are_corrected_and_flagged_by_key_on_the_one_with_the_focus(visit, site, eventually):
    one_task(site)
    ada = visit()
    ada.see("compare")
    shown = ada.shown()
    ada.press("c")
    ada.said("Go to an answer first.")
    ada.tab.locator(".compare .answer").nth(1).focus()
    ada.press("c")
    ada.tab.locator("dialog textarea").fill("A better one.")
    ada.button("Store correction").click()
    [correction] = eventually(lambda: opinions(site, "correction"))
    assert texts_of(site, [correction.response_id]) == [shown[1]]
    ada.press("f")
    ada.button("Store flag").click()
    [flag] = eventually(lambda: opinions(site, "flag"))
    assert (flag.response_id, flag.reason) == (correction.response_id, "harmful")
    assert comparisons(site) == []


def test_letters_that_are_typed_decide_nothing(visit, site):
    one_task(site)
    ada = visit()
    ada.see("compare")
    ada.shown()
    ada.tab.get_by_text("Or ask something yourself").click()
    ada.tab.get_by_label("Your question").focus()
    ada.press("1", "t", "b", "s")
    ada.tab.locator(".compare h1").focus()
    ada.press("Control+b", "Alt+1")
    assert ada.tab.get_by_label("Your question").input_value() == "1tbs"
    ada.button("A is better").wait_for()
    assert comparisons(site) == []


def test_keys_can_be_turned_off(visit, site):
    one_task(site)
    ada = visit()
    ada.see("compare")
    ada.shown()
    ada.press("?")
    ada.tab.get_by_label("Single-key shortcuts").uncheck()
    ada.press("Escape")
    ada.press("1", "b")
    assert comparisons(site) == []
    ada.button("A is better").wait_for()


def test_a_task_waits_while_another_view_is_shown(visit, site):
    one_task(site), ask(site.service, "How?", "So.", "Like this.")
    ada = visit()
    ada.see("compare")
    shown = ada.shown()
    ada.see("progress")
    ada.press("1")
    ada.see("compare")
    assert ada.shown() == shown
    assert comparisons(site) == []
