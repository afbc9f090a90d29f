"""The live fleet page: static files at `/` and `/page/NAME` of the admin address, which show what `/v1` says.

The files hold nothing of this router, so no token is asked for them, nor where their reader comes from: a link in a
chat leads to the page, and the page asks for the token of the data. Headers keep it to itself: a browser loads scripts
and styles from this address alone, asks this address alone, and shows the page in no frame. The files are read when
somebody opens the page first, and kept.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pointsman.router.fronts.api.pages import FOLDER, SECURITY_HEADERS

INDEX = "index.html"

MEDIA_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
"""Media type by the end of a file's name; other files of the folder are not served."""

HEADERS = SECURITY_HEADERS | {
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
"""Headers of the files; browsers ask each time, for a router of another version serves another page, and get 304."""


@dataclass(frozen=True, slots=True)
class PageFile:
    """One file of the page."""

    content: bytes
    media_type: str
    etag: str


def fleet_page_routes() -> list[Route]:
    """Return the routes of the page."""
    page = FleetPage()
    return [Route("/", page.get_index, methods=["GET"]), Route("/page/{name}", page.get_file, methods=["GET"])]


class FleetPage:
    """Handlers of the page."""

    async def get_index(self, request: Request) -> Response:
        return self._answer(request, INDEX)

    async def get_file(self, request: Request) -> Response:
        return self._answer(request, request.path_params["name"])

    @cached_property
    def _files(self) -> dict[str, PageFile]:
        """All files by name."""
        found: dict[str, PageFile] = {}
        for file in (FOLDER / "fleet").iterdir():
            media_type = MEDIA_TYPES.get(file.name[file.name.rfind(".") :])
            if media_type is not None:
                content = file.read_bytes()
                etag = f'"{hashlib.blake2b(content, digest_size=8).hexdigest()}"'
                found[file.name] = PageFile(content, media_type, etag)
        return found

    def _answer(self, request: Request, name: str) -> Response:
        file = self._files.get(name)
        if file is None:
            raise HTTPException(404, f"the page has no file {name!r}")
        headers = HEADERS | {"etag": file.etag}
        if request.headers.get("if-none-match") == file.etag:
            return Response(status_code=304, headers=headers)
        return Response(file.content, headers=headers, media_type=file.media_type)
