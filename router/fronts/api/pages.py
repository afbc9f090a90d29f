"""Pages of the admin address for people: the description of the API, and the kinds of problems.

Nothing on a page comes from elsewhere, so that they work without a connection to the outside, and a policy in their
headers keeps it so: a browser loads and asks this address alone, and shows them in no other site's frame.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from string import Template

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pointsman.router.fronts.api.guard import Guard
from pointsman.router.fronts.api.problems import KINDS, PAGE

FOLDER = files("pointsman.router.fronts") / "pages"

SECURITY_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


@dataclass(frozen=True, slots=True)
class Page:
    """A file of the folder and its media type."""

    file: str
    media_type: str

    def text(self) -> str:
        """The file as it is."""
        return (FOLDER / self.file).read_text(encoding="utf-8")


PAGES = {
    "/docs": Page("docs.html", "text/html"),
    "/docs/docs.css": Page("docs.css", "text/css"),
    "/docs/docs.js": Page("docs.js", "text/javascript"),
    PAGE: Page("problems.html", "text/html"),
}
"""Pages by path. No token is asked for: they show nothing of this router but its version."""


def page_routes(guard: Guard) -> list[Route]:
    """Return the routes of all pages. A page is read when it is asked for first, and kept."""
    return [Route(path, guard.local(_served(page, path)), methods=["GET"]) for path, page in PAGES.items()]


def _served(page: Page, path: str) -> Callable[[Request], Awaitable[Response]]:
    kept: list[str] = []

    async def serve(request: Request) -> Response:
        if not kept:
            kept.append(problems_page(page.text()) if path == PAGE else page.text())
        return Response(kept[0], headers=SECURITY_HEADERS, media_type=page.media_type)

    return serve


def problems_page(template: str) -> str:
    """Fill the page of problems with a section for each kind."""
    sections = [
        f'    <section id="{escape(kind.slug)}">\n      <h2>{escape(kind.title)}</h2>\n'
        f'      <p class="quiet"><code>{escape(kind.type)}</code>, status {kind.status}</p>\n'
        f"      <p>{_prose(kind.remedy)}</p>\n    </section>"
        for kind in KINDS
    ]
    return Template(template).substitute(sections="\n".join(sections))


def _prose(text: str) -> str:
    """Text for a page, what stands between backticks as code."""
    parts = escape(text).split("`")
    return "".join(f"<code>{part}</code>" if at % 2 else part for at, part in enumerate(parts))
