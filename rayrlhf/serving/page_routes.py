"""The page at `/` and its files at `/page/<file>`: static, read once, and nobody needs a token to load them.

A browser may run and ask only what comes from here: the policy below allows no inline script or style, no other host,
no frame and no form that goes anywhere. What the page shows comes from the API, which wants a token.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from rayrlhf.access.door import Route
from rayrlhf.errors import RequestRefusedError

FOLDER = Path(__file__).with_name("page")
INDEX = "index.html"
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        # Text that is written as markup is refused by the browser itself.
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # Kept, but asked about each time: a new version of the service never runs with files of an old one.
    "Cache-Control": "no-cache",
}


@dataclass(frozen=True, slots=True)
class PageFile:
    """A file as it is sent."""

    content: bytes
    media_type: str
    etag: str


def page_router() -> APIRouter:
    """The routes over the files that the package brings."""
    page = _Page(read_files(FOLDER))
    router = APIRouter(tags=["page"], route_class=Route)
    router.add_api_route("/", page.index, methods=["GET", "HEAD"])
    router.add_api_route("/page/{name:path}", page.file, methods=["GET", "HEAD"])
    return router


def read_files(folder: Path) -> dict[str, PageFile]:
    """All files by name; what has no type here is not sent."""
    return {path.name: _read(path) for path in sorted(folder.iterdir()) if path.suffix in TYPES}


@dataclass(frozen=True)
class _Page:
    """A name is looked up among the files that were read, so no path leads anywhere else."""

    files: dict[str, PageFile]

    async def index(self, request: Request) -> Response:
        return _send(self.files[INDEX], request)

    async def file(self, request: Request, name: str) -> Response:
        found = self.files.get(name)
        if found is None:
            raise RequestRefusedError("the page has no such file", 404, "not_found")
        return _send(found, request)


def _read(path: Path) -> PageFile:
    content = path.read_bytes()
    return PageFile(content, TYPES[path.suffix], f'"{hashlib.sha256(content).hexdigest()[:32]}"')


def _send(file: PageFile, request: Request) -> Response:
    headers = HEADERS | {"ETag": file.etag}
    if _is_known(request.headers.get("if-none-match", ""), file.etag):
        return Response(status_code=304, headers=headers)
    return Response(file.content, media_type=file.media_type, headers=headers)


def _is_known(if_none_match: str, etag: str) -> bool:
    """Whether the browser has this very file; proxies that compress make an ETag a weak one."""
    known = {given.strip().removeprefix("W/") for given in if_none_match.split(",")}
    return bool(known & {etag, "*"})
