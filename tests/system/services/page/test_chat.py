import pytest

from tests.system.services.page.visitor import opinions
from tests.unit.feedback.test_routes import HOSTILE

MORE_HOSTILE = [
    "</div></main><script>window.hacked = 1</script>",
    "<svg onload='window.hacked = 1'></svg><iframe srcdoc='<script>parent.hacked = 1</script>'></iframe>",
    "<a href='javascript:hacked=1'>x</a> &lt;b&gt; &amp; ]]> <!-- ",
    'data: {"choices": []}\n\ndata: [DONE]\n\n',
]


def test_an_answer_appears_while_it_is_written(visit):
    ada = visit()
    answer = ada.ask("SLOW please")
    ada.tab.wait_for_function("() => document.querySelector('.turn.assistant .text')?.textContent.startsWith('1. Y')")
    assert answer.locator("[data-thumb]").count() == 0
    ada.answer_done()
    assert answer.locator(".text").inner_text() == "1. You asked: SLOW please"
    ada.said("Answer: 1. You asked: SLOW please")


def test_the_conversation_so_far_is_asked_with_each_question(visit, site):
    ada = visit()
    ada.ask("One?")
    ada.answer_done()
    ada.ask("Two?")
    ada.answer_done()
    assert site.policies.asked[1]["messages"] == [
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": "1. You asked: One?"},
        {"role": "user", "content": "Two?"},
    ]


def test_enter_sends_and_shift_enter_makes_a_line(visit, site):
    ada = visit()
    ada.tab.get_by_label("Your message").focus()
    ada.press("a", "Shift+Enter", "b", "Enter")
    ada.answer_done()
    assert site.policies.asked[0]["messages"][0]["content"] == "a\nb"


def test_settings_are_asked_with(visit, site):
    ada = visit()
    ada.tab.locator(".settings summary").click()
    ada.tab.get_by_label("Randomness").fill("1.2")
    ada.tab.get_by_label("Longest answer").fill("64")
    ada.press("Tab")
    ada.ask("Hello")
    ada.answer_done()
    assert (site.policies.asked[0]["temperature"], site.policies.asked[0]["max_tokens"]) == (1.2, 64)


def test_a_thumb_is_stored_and_can_be_changed(visit, site, eventually):
    ada = visit()
    ada.ask("Hello")
    ada.answer_done()
    ada.button("Good answer").click()
    assert eventually(lambda: opinions(site))[0].value == 1
    ada.said("Vote stored.")
    ada.tab.locator("[data-thumb=up][aria-pressed=true]").wait_for()
    ada.button("Bad answer").click()
    eventually(lambda: [vote.value for vote in opinions(site)] == [-1])
    ada.tab.locator("[data-thumb=up][aria-pressed=false]").wait_for()


def test_an_answer_is_corrected(visit, site, eventually):
    ada = visit()
    ada.ask("Hello")
    ada.answer_done()
    ada.button("Correct this answer").click()
    field = ada.tab.locator("dialog textarea")
    assert field.input_value() == "1. You asked: Hello"
    assert ada.button("Store correction").is_disabled()
    field.fill("Hello to you!")
    ada.button("Store correction").click()
    assert eventually(lambda: opinions(site))[0].text == "Hello to you!"
    ada.tab.get_by_text("Corrected").wait_for()
    ada.button("Correct this answer").click()
    assert ada.tab.locator("dialog textarea").input_value() == "Hello to you!"


def test_an_answer_is_flagged(visit, site, eventually):
    ada = visit()
    ada.ask("Hello")
    ada.answer_done()
    ada.button("Flag this answer").click()
    ada.tab.get_by_label("Personal data").check()
    ada.tab.get_by_label("Note (optional)").fill("an address")
    ada.button("Store flag").click()
    [flag] = eventually(lambda: opinions(site))
    assert (flag.kind, flag.reason, flag.text) == ("flag", "private", "an address")


def test_a_dialog_that_is_left_stores_nothing_and_gives_the_focus_back(visit, site):
    ada = visit()
    ada.ask("Hello")
    ada.answer_done()
    ada.button("Flag this answer").click()
    ada.press("Escape")
    ada.tab.wait_for_function("() => document.activeElement.dataset.remark === 'flag'")
    assert opinions(site) == []


def test_a_stream_that_breaks_keeps_what_was_said_and_cannot_be_rated(visit, site):
    ada = visit()
    answer = ada.ask("BREAK this")
    answer.get_by_text("The replica that was answering is gone; ask again. What is there cannot be rated.").wait_for()
    assert answer.locator(".text").inner_text() == "1. You asked"
    assert answer.locator("[data-thumb], [data-remark]").count() == 0
    site.policies.say = lambda question, number: "All."
    # This one is short enough to be through before it breaks.
    ada.button("Try again").click()
    assert ada.answer_done().locator(".text").inner_text() == "All."
    assert [turn["role"] for turn in site.policies.asked[1]["messages"]] == ["user"]
    assert ada.tab.locator(".turn.assistant").count() == 1


def test_an_answer_can_be_stopped(visit):
    ada = visit()
    answer = ada.ask("SLOW " * 20)
    ada.tab.wait_for_function("() => document.querySelector('.turn.assistant .text')?.textContent.length > 3")
    ada.button("Stop").click()
    answer.get_by_text("Stopped. What is there cannot be rated.").wait_for()
    assert ada.button("Send").is_visible()


def test_an_answer_of_an_old_chat_does_not_get_into_a_new_one(visit, site):
    ada = visit()
    ada.ask("SLOW " * 20)
    ada.button("New chat").click()
    ada.tab.locator(".welcome h2").wait_for()
    ada.ask("Fresh")
    ada.answer_done()
    assert site.policies.asked[1]["messages"] == [{"role": "user", "content": "Fresh"}]


def test_an_empty_answer_says_so_and_can_be_rated(visit, site, eventually):
    ada = visit()
    ada.ask("SILENT")
    assert ada.answer_done().locator(".text").inner_text() == "(an empty answer)"
    ada.button("Bad answer").click()
    assert eventually(lambda: opinions(site))[0].value == -1


def test_a_refusal_is_told_with_its_time(visit):
    ada = visit()
    ada.expects_failures = True
    error = '{"error": {"message": "too much to do", "type": "server_error", "code": "busy"}}'
    ada.tab.route(
        "**/chat/completions", lambda route: route.fulfill(status=503, headers={"Retry-After": "7"}, body=error)
    )
    ada.ask("Hello").get_by_text("Too much to do. It is welcome again in 7 s.").wait_for()
    ada.tab.unroute("**/chat/completions")
    ada.button("Try again").click()
    ada.answer_done()


def test_a_chat_outlives_a_reload_with_its_ids(visit, site, eventually):
    ada = visit()
    ada.ask("Hello")
    ada.answer_done()
    ada.tab.reload()
    ada.answer_done()
    assert ada.tab.locator(".turn.user .text").inner_text() == "Hello"
    ada.button("Good answer").click()
    assert eventually(lambda: opinions(site))[0].value == 1


@pytest.mark.parametrize("text", HOSTILE + MORE_HOSTILE)
def test_whatever_is_written_is_shown_as_text(visit, site, text):
    ada = visit()
    site.policies.say = lambda question, number: question
    ada.tab.evaluate("() => { window.alert = () => { window.hacked = 1 } }")
    kinds = "() => [...new Set([...document.querySelectorAll('*')].map((node) => node.tagName))].sort().join()"
    ada.ask("plain")
    ada.answer_done()
    before = ada.tab.evaluate(kinds)
    ada.ask(f"a{text}b")
    ada.tab.wait_for_function("() => document.querySelectorAll('[data-thumb=up]').length === 2")
    for who in ("user", "assistant"):
        assert ada.tab.locator(f".turn.{who} .text").last.evaluate("node => node.textContent") == f"a{text}b"
    ada.button("Correct this answer").last.click()
    assert ada.tab.locator("dialog textarea").input_value() == f"a{text}b"
    ada.press("Escape")
    ada.tab.wait_for_function("() => !document.querySelector('dialog')")
    assert ada.tab.evaluate(kinds) == before
    assert ada.tab.evaluate("window.hacked") is None


def test_nothing_on_the_page_tells_the_version(visit):
    ada = visit()
    ada.ask("Hello")
    ada.answer_done()
    ada.tab.evaluate("""() => { document.title += Object.values({...sessionStorage}).join() }""")
    assert "policy_version" not in ada.tab.content()
