"""The pictures of docs/page.md, taken from the page as it is: `python -m tests.system.services.page.screenshots`."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from tests.system.services.page.conftest import find_browser
from tests.system.services.page.site import Site, running
from tests.system.services.page.visitor import LAUNCH, PHONE, Visitor
from tests.unit.feedback.people import Clock, ask, ranking, service_at, thumb

IMAGES = Path(__file__).parents[4] / "docs" / "images"
DESK = {"viewport": {"width": 1120, "height": 700}}
DARK = {"color_scheme": "dark"}
LEAVES = (
    "Leaves are green because of chlorophyll, which catches light. In autumn the days get short and cold, and the tree "
    "takes the chlorophyll back. Then the yellow and orange that were there all summer can be seen."
)
BAKERY = (
    "The Daily Loaf, The Golden Crust, Rise & Shine: each is short, easy to say, and tells what you bake.\n\n"
    "Say a name aloud on the telephone before you print the sign: what has to be spelt is soon forgotten.",
    "Crumb & Co.",
    "Bakery.",
    "If you like something local, use the name of your street: Mill Lane Bakery.",
)


def fill(service, clock):
    """Four days of judgements about two versions, and what is left to judge."""
    for day in range(4):
        for n in range(8):
            question = f"Question {n} of day {day}"
            pair = [*ask(service, question, "short", version=6), *ask(service, question, "good", version=7)]
            service.comparison(ranking(pair, [1, 2] if (n + day) % 5 < 2 - day // 2 else [2, 1]), "bob")
            service.comparison(ranking(pair, [1, 1] if n == day else [2, 1]), "carol")
            service.feedback(thumb(pair[0], "up" if n % 2 else "down"), "bob")
            service.feedback(thumb(pair[1], "up" if n > 1 else "down"), "bob")
        clock.advance(days=1)
    ask(service, "Suggest a name for a small bakery.", *BAKERY)
    why = "Why do leaves turn yellow?"
    ask(service, why, LEAVES, version=7)
    ask(service, why, "It is autumn, and in autumn leaves are yellow or red.", version=6)


def chat(visitor):
    """A conversation."""
    visitor.ask("Why do leaves turn yellow?")
    visitor.answer_done()
    visitor.button("Good answer").click()
    visitor.said("Vote stored.")


def compare(visitor):
    """Two answers."""
    visitor.see("compare")
    while "Why do leaves" not in visitor.tab.locator(".compare .conversation").inner_text():
        visitor.press("s")
        visitor.tab.wait_for_timeout(300)


def rank(visitor):
    """Four answers, two of which have their rank."""
    visitor.see("rank")
    visitor.shown("rank")
    for letter in "AB":
        visitor.button(f"Put answer {letter} at rank 1").click()
    visitor.tab.evaluate("document.activeElement.blur()")
    visitor.tab.evaluate("document.querySelector('.rank .scroll').scrollTop = 0")


def overview(visitor):
    """The charts."""
    visitor.see("overview")
    visitor.tab.locator(".drawing").first.wait_for()
    visitor.tab.locator("h2", has_text="How versions fare").evaluate("node => node.scrollIntoView()")


def take(browser, site, user, do, **context):
    """A picture of what somebody sees."""
    visitor = Visitor(browser.new_context(**context), site)
    visitor.sign_in(site.token(user, "admin"))
    do(visitor)
    visitor.tab.mouse.move(0, 0)
    visitor.tab.wait_for_timeout(400)
    image = Image.open(io.BytesIO(visitor.tab.screenshot()))
    visitor.context.close()
    assert visitor.complaints == []
    return image.convert("RGB")


def beside(images, gap=24):
    """Several pictures as one."""
    width = sum(image.width for image in images) + gap * (len(images) - 1)
    row = Image.new("RGB", (width, images[0].height), "#c9d0da")
    x = 0
    for image in images:
        row.paste(image, (x, 0))
        x += image.width + gap
    return row


def main():
    """Take all pictures."""
    IMAGES.mkdir(exist_ok=True)
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        service = service_at(str(Path(folder) / "feedback.db"), Path(folder), clock)
        fill(service, clock)
        site = Site(service)
        site.policies.versions = {"a": 7, "b": 6}
        site.policies.say = lambda question, number: LEAVES
        with service, running(site) as site.url:
            browser = driver.chromium.launch(executable_path=find_browser(), args=LAUNCH)
            phone = PHONE | {"device_scale_factor": 1}
            pictures = {
                "page-chat": take(browser, site, "ada", chat, **DESK),
                "page-compare": take(browser, site, "ada", compare, **DESK),
                "page-rank": take(browser, site, "ada", rank, **DESK, **DARK),
                "page-overview": take(browser, site, "ada", overview, **DESK, **DARK),
                "page-phone": beside([
                    take(browser, site, "dan", chat, **phone),
                    take(browser, site, "eve", compare, **phone),
                    take(browser, site, "fay", rank, **phone, **DARK),
                ]),
            }  # fmt: skip
            browser.close()
    for name, picture in pictures.items():
        picture.quantize(256, kmeans=2, dither=Image.Dither.NONE).save(IMAGES / f"{name}.png", optimize=True)
        print(f"{name}.png: {(IMAGES / f'{name}.png').stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
