import pytest

from rayrlhf.feedback.caps import Caps
from tests.system.services.page.conftest import served, visitors
from tests.system.services.page.visitor import comparisons, opinions
from tests.unit.feedback.people import ask


@pytest.fixture
def judging(visit, site):
    """Somebody in front of two answers."""
    ask(site.service, "Why?", "Because.", "No idea.")
    ada = visit()
    ada.expects_failures = True
    ada.see("compare")
    ada.shown()
    return ada


def test_a_post_whose_answer_got_lost_is_sent_again_under_the_same_key_and_stored_once(judging, site):
    posts = []

    def lose_the_first_answer(route):
        posts.append(route.request.post_data_json)
        if len(posts) == 1:
            route.fetch()
            route.abort()
        else:
            route.continue_()

    judging.tab.route("**/v1/comparisons", lose_the_first_answer)
    judging.press("1")
    judging.notice("A is better: not stored yet. The service cannot be reached.").wait_for()
    judging.said("A is better: stored.")
    assert len(posts) == 2
    assert posts[0] == posts[1]
    assert judging.notice("not stored").count() == 0
    assert len(comparisons(site)) == 1


def test_two_decisions_have_two_keys(judging, site):
    keys = []
    judging.tab.on(
        "request", lambda request: request.method == "POST" and keys.append(request.post_data_json["idempotency_key"])
    )
    judging.press("1")
    judging.said("A is better: stored.")
    judging.press("u")
    judging.shown()
    judging.press("2")
    judging.said("B is better: stored.")
    assert len(set(keys)) == len(keys) == 2
    assert all(len(key) >= 32 for key in keys)


def test_while_nothing_is_stored_the_page_says_so_and_goes_nowhere(judging, site):
    judging.tab.route("**/v1/comparisons", lambda route: route.abort())
    judging.press("2")
    trouble = judging.notice("not stored yet")
    trouble.get_by_text("Next try in").wait_for()
    assert judging.tab.locator(".compare.storing").count() == 1
    trouble.get_by_role("button", name="Give up").click()
    assert judging.button("B is better").get_attribute("aria-pressed") == "true"
    assert comparisons(site) == []
    judging.tab.unroute("**/v1/comparisons")
    judging.shown()
    judging.press("2")
    judging.said("B is better: stored.")
    assert len(comparisons(site)) == 1


def test_try_now_does_not_wait(judging):
    judging.tab.route("**/v1/comparisons", lambda route: route.fulfill(status=503, headers={"Retry-After": "600"}))
    judging.press("1")
    judging.notice("not stored yet. The service answered 503.").wait_for()
    judging.tab.unroute("**/v1/comparisons")
    judging.button("Try now").click()
    judging.said("A is better: stored.")


def test_what_is_not_stored_yet_outlives_a_reload(judging, site):
    judging.tab.route("**/v1/comparisons", lambda route: route.abort())
    judging.press("1")
    judging.notice("not stored yet").wait_for()
    judging.tab.unroute("**/v1/comparisons")
    judging.tab.on("dialog", lambda dialog: dialog.accept())
    judging.tab.reload()
    judging.notice("A is better: stored now.").wait_for()
    assert len(comparisons(site)) == 1


def test_a_tab_with_something_undelivered_asks_before_it_closes(judging):
    judging.tab.route("**/v1/comparisons", lambda route: route.abort())
    judging.press("1")
    judging.notice("not stored yet").wait_for()
    asked = []
    judging.tab.on("dialog", lambda dialog: (asked.append(dialog.type), dialog.accept()))
    judging.tab.close(run_before_unload=True)
    judging.tab.wait_for_event("close")
    assert asked == ["beforeunload"]


def test_too_many_requests_are_waited_for(visit_strictly, strict_site, eventually):
    ada = visit_strictly()
    ada.expects_failures = True
    ada.ask("Hello")
    ada.answer_done()
    waiting = ada.notice("Vote: not stored yet. Too many requests")
    for n in range(12):
        value = "down" if n % 2 else "up"
        ada.tab.locator(f"[data-thumb={value}]").click()
        pressed = ada.tab.locator(f"[data-thumb={value}][aria-pressed=true]")
        eventually(lambda pressed=pressed: pressed.count() or waiting.count())
        if waiting.count():
            break
    assert waiting.locator(".aside").inner_text().startswith("Next try in")
    eventually(pressed.count, within_s=30)
    assert [vote.value for vote in opinions(strict_site)] == [-1 if value == "down" else 1]
    assert waiting.count() == 0


def test_the_cap_of_a_day_is_told_with_the_time_it_takes(chromium, tmp_path, eventually):
    for site in served(tmp_path, caps=Caps(posts_per_day=1)):
        for visit in visitors(chromium, site):
            ada = visit()
            ada.expects_failures = True
            ada.ask("Hello")
            ada.answer_done()
            ada.button("Good answer").click()
            eventually(lambda site=site: opinions(site))
            ada.button("Bad answer").click()
            trouble = ada.notice("Vote: not stored yet. 1 posts a day are taken from one user")
            trouble.wait_for()
            assert trouble.locator(".aside").inner_text().endswith((" h.", " min."))
            trouble.get_by_role("button", name="Give up").click()
            ada.tab.locator("[data-thumb=up][aria-pressed=true]").wait_for()


def test_a_refusal_that_will_not_pass_is_told_and_not_repeated(visit, site):
    ada = visit()
    ada.expects_failures = True
    ada.ask("Hello")
    ada.answer_done()
    site.service.store.forget("ada")
    ada.button("Good answer").click()
    ada.notice("Vote: not stored. No such answer is stored.").wait_for()
    assert ada.tab.locator("[data-thumb][aria-pressed=true]").count() == 0
    ada.button("Close").click()
    assert ada.tab.locator(".notice").count() == 0
