"""Pages of the admin address for people: they work offline, and show what the description says."""

from __future__ import annotations

import asyncio
import html
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from router_fixture import client_of, running_router

from pointsman.router.app import Router
from pointsman.router.fronts.api.pages import PAGES
from pointsman.router.fronts.api.problems import KINDS
from pointsman.router.fronts.api.table import ENDPOINTS

CHROMIUM = shutil.which("chromium")


async def test_pages_need_no_token_and_load_nothing_from_elsewhere() -> None:
    """A browser is told so, too: nothing inline, no frame round it."""
    async with running_router(admin={"port": 0, "token": "t"}) as router, client_of(router) as client:
        for path, page in PAGES.items():
            answer = await client.get(path)
            assert answer.status_code == 200 and answer.headers["content-type"].startswith(page.media_type)
            policy = answer.headers["content-security-policy"]
            assert policy.startswith("default-src 'none'; ") and "unsafe" not in policy
            assert "frame-ancestors 'none'" in policy
            assert not re.search(r"(https?:)?//[a-z]", answer.text), path
            assert not re.search(r"<(script|style)>| style=| on[a-z]+=|innerHTML", answer.text), path


async def test_pages_are_for_this_machine_where_no_token_is_set() -> None:
    """As everything else on the address."""
    async with running_router() as router, client_of(router) as client:
        assert (await client.get("/docs", headers={"host": "rebind.example"})).status_code == 403


async def test_each_kind_of_problem_has_its_section() -> None:
    """`type` of a refusal leads to it."""
    async with running_router() as router, client_of(router) as client:
        refused = (await client.get("/v1/replicas/none")).json()
        page, _, slug = refused["type"].partition("#")
        text = (await client.get(page)).text
        assert f'<section id="{slug}">' in text and "$sections" not in text
        assert re.findall(r'<section id="([\w-]+)">', text) == [kind.slug for kind in KINDS]
        assert all(html.escape(kind.title) in text for kind in KINDS)
        assert "`" not in text


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
async def test_a_browser_shows_every_operation(tmp_path: Path) -> None:
    """Headless Chromium runs the page under its policy; an address with a name opens that operation."""
    async with running_router() as router:
        shown = await in_browser(router, "/docs#listEvents", tmp_path)
    names = re.findall(r'<details id="(\w+)"', shown)
    assert {endpoint.operation_id for endpoint in ENDPOINTS} <= set(names)
    assert "ReplicaView" in names and len(set(names)) == len(names)
    assert re.search(r'<details id="listEvents"[^>]* open=""', shown)
    assert all(html.escape(endpoint.summary, quote=False) in shown for endpoint in ENDPOINTS)
    assert "cannot be read" not in shown and "undefined" not in shown and "[object" not in shown


async def in_browser(router: Router, path: str, profile: Path) -> str:
    """The document as it stands after its scripts ran."""
    assert CHROMIUM is not None
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}",
               "--virtual-time-budget=10000", "--dump-dom", f"http://{router.addresses['admin']}{path}"]  # fmt: skip
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=90)
    return done.stdout
