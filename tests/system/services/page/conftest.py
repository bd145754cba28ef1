"""The page in a real Chromium, over the real routes and a real store; only the policy is a fake."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

from tests.system.services.page.site import Site, running
from tests.system.services.page.visitor import LAUNCH, Visitor
from tests.unit.feedback.people import service_at

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def find_browser():
    """A Chromium where packages put it; Playwright's own download is not needed."""
    for name in NAMES:
        found = shutil.which(name) or (f"/usr/bin/{name}" if Path(f"/usr/bin/{name}").exists() else None)
        if found:
            return found
    return None


@pytest.fixture(scope="package")
def chromium():
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="the driver is not installed (pip install playwright)"
    )
    found = find_browser()
    if found is None:
        pytest.skip(f"no browser was found: none of {', '.join(NAMES)} (Debian: apt install chromium)")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=found, args=LAUNCH)
        yield browser
        browser.close()


@pytest.fixture
def site(tmp_path):
    """A site on an empty store; its `url` is where it is served."""
    yield from served(tmp_path)


@pytest.fixture
def strict_site(tmp_path):
    """One that soon has had enough of somebody."""
    yield from served(tmp_path, limits={"requests_per_minute": 12, "burst": 8})


def served(folder, limits=None, **store):
    with service_at(str(folder / "feedback.db"), folder, **store) as service:
        site = Site(service, **(limits or {}))
        with running(site) as site.url:
            yield site


@pytest.fixture
def visit(chromium, site):
    """Somebody on the page; at the end nothing may have been complained about in any console."""
    yield from visitors(chromium, site)


@pytest.fixture
def visit_strictly(chromium, strict_site):
    yield from visitors(chromium, strict_site)


def visitors(chromium, site):
    opened = []

    def visit(user="ada", role="labeller", **context):
        visitor = Visitor(chromium.new_context(**context), site)
        opened.append(visitor)
        if user is not None:
            visitor.sign_in(site.token(user, role))
        return visitor

    yield visit
    complaints = [complaint for visitor in opened for complaint in visitor.complaints]
    for visitor in opened:
        visitor.context.close()
    assert complaints == []


@pytest.fixture
def eventually():
    """Wait until something holds, because a click comes back before its post has been answered."""

    def wait(holds, within_s=10.0):
        until = time.monotonic() + within_s
        while not (found := holds()):
            assert time.monotonic() < until, "it did not come about in time"
            time.sleep(0.05)
        return found

    return wait
