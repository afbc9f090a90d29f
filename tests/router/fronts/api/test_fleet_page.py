"""The page's files: how they are served, and what they may not do."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
import pytest
from router_fixture import client_of, running_router

from pointsman.router.fronts.api.fleet_page import FleetPage

FOLDER = Path(__file__).parents[4] / "router" / "fronts" / "pages" / "fleet"
FILES = sorted(FOLDER.iterdir())


async def get(path: str, **headers: str) -> httpx.Response:
    async with running_router() as router, client_of(router) as client:
        return await client.get(path, headers=headers)


async def test_the_page_is_served_with_headers_that_keep_it_to_itself() -> None:
    answer = await get("/")
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/html")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy and "unsafe" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"


async def test_a_browser_that_has_a_file_is_not_sent_it_again() -> None:
    async with running_router() as router, client_of(router) as client:
        first = await client.get("/page/main.js")
        assert first.headers["content-type"].startswith("text/javascript")
        again = await client.get("/page/main.js", headers={"if-none-match": first.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        assert "content-security-policy" in again.headers
        assert (await client.head("/page/main.js")).status_code == 200


@pytest.mark.parametrize("name", ["nothing.js", "..%2ftable.py", "%2e%2e%2fguard.py", "docs.html"])
async def test_no_other_file_is_served(name: str) -> None:
    answer = await get(f"/page/{name}")
    assert answer.status_code == 404 and answer.headers["content-type"] == "application/problem+json"


async def test_the_page_asks_for_no_token_and_its_data_does() -> None:
    """A link in a chat leads to the page, and shows nothing of the router."""
    async with running_router(admin={"port": 0, "token": "t"}) as router, client_of(router) as client:
        elsewhere = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
        assert (await client.get("/", headers=elsewhere)).status_code == 200
        for path in ("/v1/live", "/v1/events", "/v1/decisions", "/v1/whoami"):
            assert (await client.get(path)).status_code == 401


async def test_a_page_of_another_origin_reads_nothing_where_no_token_is_set() -> None:
    assert (await get("/v1/live", **{"sec-fetch-site": "cross-site"})).status_code == 403


async def test_an_edge_whose_page_nobody_opens_reads_no_file() -> None:
    page = FleetPage()
    assert "_files" not in vars(page)
    page._files["index.html"]
    assert "_files" in vars(page)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
async def test_files_name_no_other_address_and_only_files_that_are_there(file: Path) -> None:
    """No request to outside, no inline script or style, no module that is missing."""
    text = file.read_text()
    assert set(re.findall(r"https?://[\w.]+", text)) <= {"http://www.w3.org", "http://10.0.0.7"}
    if file.suffix == ".html":
        assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", text)
    if file.suffix == ".js":
        assert "innerHTML" not in text and "eval(" not in text and "document.write" not in text
    names = {path.name for path in FILES}
    asked = set(re.findall(r'from "\./([\w.]+)"|(?:src|href)="/page/([\w.]+)"', text))
    assert {one or other for one, other in asked} <= names
