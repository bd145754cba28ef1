import re

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from rayrlhf.serving.page_routes import FOLDER, TYPES, page_router

NAMES = sorted(path.name for path in FOLDER.iterdir())
OUTSIDE = re.compile(r"(?:https?:)?//(?!www\.w3\.org/2000/svg)[\w.-]+\.\w+")


@pytest.fixture(scope="module")
def browser():
    app = FastAPI()
    app.include_router(page_router())
    return TestClient(app, base_url="http://test")


def policy(response):
    return dict(part.split(" ", 1) for part in response.headers["Content-Security-Policy"].split("; "))


def test_the_page_needs_no_token(browser):
    page = browser.get("/")
    assert page.status_code == 200
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    assert page.text.startswith("<!DOCTYPE html>")


@pytest.mark.parametrize("name", NAMES)
def test_every_file_of_the_page_is_sent_with_its_type(browser, name):
    found = browser.get(f"/page/{name}")
    assert found.status_code == 200
    assert found.headers["Content-Type"] == TYPES["." + name.rpartition(".")[2]]
    assert found.content == (FOLDER / name).read_bytes()


@pytest.mark.parametrize("path", ["/", "/page/app.js", "/page/icon.svg"])
def test_a_browser_may_run_and_ask_only_what_comes_from_here(browser, path):
    headers = browser.get(path)
    assert policy(headers) == {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "img-src": "'self' data:",
        "connect-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
        "require-trusted-types-for": "'script'",
        "trusted-types": "'none'",
    }
    assert headers.headers["X-Content-Type-Options"] == "nosniff"
    assert headers.headers["Referrer-Policy"] == "no-referrer"


def test_a_file_that_did_not_change_is_not_sent_again(browser):
    first = browser.get("/page/app.js")
    assert first.headers["Cache-Control"] == "no-cache"
    etag = first.headers["ETag"]
    for known in (etag, f'"other", {etag}', f"W/{etag}", "*"):
        again = browser.get("/page/app.js", headers={"If-None-Match": known})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["ETag"] == etag
    assert browser.get("/page/app.js", headers={"If-None-Match": '"other"'}).status_code == 200


def test_two_files_have_two_etags(browser):
    assert len({browser.get(f"/page/{name}").headers["ETag"] for name in NAMES}) == len(NAMES)


def test_head_tells_what_get_would_send(browser):
    assert browser.head("/").headers["ETag"] == browser.get("/").headers["ETag"]


@pytest.mark.parametrize(
    "path",
    [
        "/page/", "/page/none.js", "/page/../page_routes.py", "/page/%2e%2e/page_routes.py",
        "/page/..%2fpage_routes.py",
        "/page/%2fetc%2fpasswd", "/page//etc/passwd", "/page/..\\page_routes.py", "/page/app.js/", "/page/app.js%00",
        "/page/./app.js/../../page_routes.py", "/page/APP.JS",
    ],
)  # fmt: skip
def test_no_path_leads_out_of_the_page(browser, path):
    found = browser.get(path)
    assert found.status_code == 404
    assert b"PageFile" not in found.content


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_the_page_is_read_only(browser, method):
    assert browser.request(method, "/").status_code == 405


def test_the_page_names_no_other_host_and_no_inline_script_or_style():
    for name in NAMES:
        text = (FOLDER / name).read_text()
        assert not OUTSIDE.search(text), name
        assert not re.search("innerHTML|outerHTML|insertAdjacentHTML|document.write|eval", text), name
    index = (FOLDER / "index.html").read_text()
    assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:", index)
    assert re.findall(r"<script[^>]*>", index) == ['<script type="module" src="page/app.js">']


def test_every_file_is_used_and_every_import_is_there():
    used = {"index.html", *re.findall(r'"page/([\w.]+)"', (FOLDER / "index.html").read_text())}
    for name in NAMES:
        if name.endswith(".js"):
            used |= set(re.findall(r'from "\./([\w.]+)"', (FOLDER / name).read_text()))
    assert used == set(NAMES)


def test_the_package_data_names_the_page(pytestconfig):
    assert '"rayrlhf.serving" = ["page/*"]' in (pytestconfig.rootpath / "pyproject.toml").read_text()
