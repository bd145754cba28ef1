"""Somebody with a browser, and what the store holds of them."""

from __future__ import annotations

import sqlalchemy as sa

from rayrlhf.feedback.schema import task_answers

# Without these Chromium looks for its maker's hosts at every start; as root it has no sandbox.
LAUNCH = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
PHONE = {"viewport": {"width": 390, "height": 780}, "has_touch": True, "is_mobile": True, "device_scale_factor": 2}
# Chromium itself logs each response of 400 and more, and each request that failed.
REQUEST_FAILED = "Failed to load resource"


class Visitor:
    """A tab."""

    def __init__(self, context, site):
        self.context, self.site = context, site
        self.complaints = []
        self.expects_failures = False
        self.tab = self.new_tab()

    def new_tab(self):
        tab = self.context.new_page()
        tab.set_default_timeout(15_000)
        tab.on("pageerror", lambda error: self.complaints.append(str(error)))
        tab.on("console", self._heard)
        return tab

    def _heard(self, message):
        if message.type in ("error", "warning") and not (self.expects_failures and REQUEST_FAILED in message.text):
            self.complaints.append(message.text)

    def sign_in(self, token):
        self.tab.goto(f"{self.site.url}/#token={token}")
        self.tab.locator("#app").wait_for()

    def see(self, view):
        """Go to a view and wait until it is shown: the browser reports the new address a moment after the click, and a
        key that is pressed before belongs to the view before."""
        self.tab.click(f"nav a[data-view={view}]")
        root = self.tab.locator(f".view.{view}")
        root.wait_for()
        return root

    def press(self, *keys):
        for key in keys:
            self.tab.keyboard.press(key)

    def button(self, name, exact=False):
        return self.tab.get_by_role("button", name=name, exact=exact).locator("visible=true")

    def ask(self, text):
        self.tab.get_by_label("Your message").fill(text)
        self.button("Send").click()
        return self.tab.locator(".turn.assistant").last

    def answer_done(self):
        self.tab.locator(".turn.assistant:last-child [data-thumb]").first.wait_for()
        return self.tab.locator(".turn.assistant").last

    def shown(self, view="compare"):
        """The texts of a task's answers, as they are on the screen from the first to the last."""
        self.tab.locator(f".{view} .answer.card").first.wait_for()
        # What is decided sooner is taken for an accident.
        self.tab.wait_for_timeout(300)
        return self.tab.locator(f".{view} .answer.card .text").all_inner_texts()

    def said(self, words):
        """Wait until a screen reader has been told this."""
        self.tab.wait_for_function("words => document.getElementById('live').textContent.includes(words)", arg=words)

    def notice(self, words):
        return self.tab.locator(".notice", has_text=words)


def opinions(site, kind=None):
    return [vote for vote in site.service.store.snapshot().opinions if kind in (None, vote.kind)]


def comparisons(site):
    return list(site.service.store.snapshot().comparisons)


def texts_of(site, response_ids):
    answers = site.service.store.snapshot().answers
    return [answers[response_id].text for response_id in response_ids]


def leased_order(site):
    """The order in which the service has recorded that it gave the answers of the only task."""
    with site.service.store.database.read() as connection:
        order = sa.select(task_answers.c.response_id).order_by(task_answers.c.task_id, task_answers.c.position)
        return list(connection.execute(order).scalars())
