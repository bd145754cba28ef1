"""For everybody: on a phone, in the dark, with a keyboard, with a screen reader."""

import pytest

from tests.system.services.page.test_numbers import judged
from tests.system.services.page.visitor import PHONE
from tests.unit.feedback.people import ask

VIEWS = ("chat", "compare", "rank", "progress", "overview")
LONG = "An answer that is long enough to be cut where there is little room. " * 20
SMALL = """() => [...document.querySelectorAll('button, a[href], summary, select, input, textarea')]
    .filter((node) => node.checkVisibility({ visibilityProperty: true }))
    .map((node) => [node.closest('label') ?? node, node])
    .map(([node, inner]) => [inner.outerHTML.slice(0, 90), node.getBoundingClientRect()])
    .filter(([, box]) => box.width && (box.height < 43.5 || box.width < 43.5) && box.right > 0)
    .map(([html, box]) => `${Math.round(box.width)} x ${Math.round(box.height)}: ${html}`)"""

TOO_WIDE = """() => [...document.querySelectorAll('.scroll')]
    .filter((node) => node.scrollWidth > node.clientWidth + 1).length"""
OUTLINED = """() => { const style = getComputedStyle(document.activeElement);
    return style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2 }"""
BRIGHTNESS = """() => getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)
    .reduce((sum, part) => sum + part)"""


def filled(site):
    """Something to see in each view."""
    judged(site.service)
    ask(site.service, "Why?", LONG, "Because.", "No idea.", "Unbreakable" * 30)
    return site


def tour(visitor):
    """Each view with what is in it."""
    visitor.ask("Hello")
    visitor.answer_done()
    for view in VIEWS:
        visitor.see(view)
        visitor.tab.locator(f".{view} h1, .chat .turn").locator("visible=true").first.wait_for()
        visitor.tab.wait_for_function("() => !document.querySelector('.waiting')")
        yield view


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("device", ["desk", "phone"])
def test_no_rule_of_accessibility_is_broken(visit, site, scheme, device):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed").Axe()
    eve = visit("eve", "admin", color_scheme=scheme, **(PHONE if device == "phone" else {}))
    filled(site)
    for view in tour(eve):
        assert broken(axe, eve) == [], view
    eve.see("compare")
    eve.press("?")
    eve.tab.locator("dialog[open]").wait_for()
    assert broken(axe, eve) == [], "help"


def broken(axe, visitor):
    found = axe.run(visitor.tab).response["violations"]
    return [(rule["id"], node["html"][:120], node["failureSummary"]) for rule in found for node in rule["nodes"]]


@pytest.mark.parametrize("width", [320, 390])
def test_a_phone_needs_no_scrolling_sideways_and_everything_is_large_enough_for_a_finger(visit, site, width):
    filled(site)
    eve = visit("eve", "admin", **(PHONE | {"viewport": {"width": width, "height": 700}}))
    for view in tour(eve):
        assert eve.tab.evaluate("document.documentElement.scrollWidth") <= width, view
        assert eve.tab.evaluate(TOO_WIDE) == 0, view
        assert eve.tab.evaluate(SMALL) == [], view


def test_a_screen_of_little_height_scrolls_as_a_whole(visit, site):
    filled(site)
    eve = visit("eve", "admin", **(PHONE | {"viewport": {"width": 740, "height": 340}}))
    eve.see("compare")
    eve.shown()
    eve.button("B is better").scroll_into_view_if_needed()
    assert eve.button("B is better").is_visible()


def test_the_page_is_dark_where_the_device_is(visit):
    assert visit(color_scheme="dark").tab.evaluate(BRIGHTNESS) < 120
    assert visit(color_scheme="light").tab.evaluate(BRIGHTNESS) > 600


def test_nothing_moves_for_who_wants_that(visit):
    ada = visit(reduced_motion="reduce")
    ada.ask("SLOW " * 10)
    ada.tab.locator(".writing").wait_for()
    assert ada.tab.evaluate("document.getAnimations().length") == 0


def test_the_keyboard_reaches_everything_in_order_and_what_has_the_focus_is_seen(visit, site):
    filled(site)
    ada = visit()
    ada.see("compare")
    ada.shown()
    ada.tab.locator("#skip").focus()
    # From a key on, a browser shows where the focus is.
    ada.press("Tab", "Shift+Tab")
    seen = []
    for _ in range(18):
        seen.append(ada.tab.evaluate("document.activeElement.innerText.trim().split('\\n')[0]"))
        assert ada.tab.evaluate(OUTLINED), seen
        ada.press("Tab")
    assert seen[:6] == ["Skip to the content", "Chat", "Compare", "Rank", "Progress", "Signed in as"]
    rest = ["Correct", "Flag", "Correct", "Flag", "A is better", "Tie", "Both bad", "B is better", "Skip"]
    assert [name for name in seen[6:] if name in rest] == rest


def test_the_skip_link_leads_to_the_content_and_leaves_the_view(visit):
    ada = visit()
    ada.see("progress")
    ada.tab.locator("#skip").focus()
    ada.press("Enter")
    assert ada.tab.evaluate("document.activeElement.id") == "main"
    assert ada.tab.locator(".view.progress").is_visible()


def test_the_view_that_is_shown_is_named(visit):
    ada = visit()
    ada.see("rank")
    assert ada.tab.title() == "Rank · rayrlhf"
    assert ada.tab.locator("nav [aria-current=page]").inner_text() == "Rank"


def test_help_lists_the_keys(visit):
    ada = visit()
    ada.see("progress")
    ada.press("?")
    ada.tab.get_by_role("dialog", name="Keyboard and help").get_by_text("a tie", exact=True).wait_for()


def test_a_text_that_is_cut_can_be_read_whole(visit, site):
    ask(site.service, "Why?", LONG, "p", "q", "r")
    ada = visit()
    ada.see("rank")
    ada.shown("rank")
    ada.button("Show all").click()
    long = ada.tab.locator(".rank .answer.open .text")
    assert long.evaluate("node => node.scrollHeight - node.clientHeight") <= 1
    assert ada.button("Show less").count() == 1
