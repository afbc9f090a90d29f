"""The curl lines of README and docs: what they send is what is taken."""

from __future__ import annotations

from urllib.parse import urlsplit

import httpx
import msgspec
import pytest
from curl_lines import Curl, curl_lines
from pages import PAGES

from pointsman.router.app import Router
from pointsman.router.settings import load_settings

ADMIN_PORT = 8001


CURLS = [curl for page in PAGES for curl in curl_lines(page)]


def test_there_are_some() -> None:
    """In README and in how-tos, with bodies and without."""
    assert len(CURLS) > 15 and {curl.body is None for curl in CURLS} == {True, False}


@pytest.mark.parametrize("curl", [curl for curl in CURLS if curl.body is not None], ids=lambda curl: curl.where)
def test_a_body_is_json_and_says_so(curl: Curl) -> None:
    """Engines and the admin API refuse curl's own type, that of a form."""
    assert curl.headers.get("content-type") == "application/json"
    msgspec.json.decode(curl.body or "")


async def test_the_admin_api_takes_them() -> None:
    """Replayed in order of the pages on a router that has what they speak of, pools aside: none is malformed."""
    router = Router(load_settings(environment={}, overrides={"admin": {"port": 0}, "policy": {"policy": "random"}}))
    transport = httpx.ASGITransport(router.admin.app())
    asked = [curl for curl in CURLS if urlsplit(curl.url).port == ADMIN_PORT and "/pools" not in curl.url]
    asked = [
        curl for curl in asked if not curl.where.startswith("admin-api.md")
    ]  # tests/router/fronts/api/test_api_page.py
    assert len(asked) > 8
    async with httpx.AsyncClient(transport=transport) as client:
        for name in ("sim-2", "gpu-1"):
            url = f"http://localhost:{ADMIN_PORT}/v1/replicas/{name}"
            assert (await client.put(url, json={"url": "http://127.0.0.1:9"})).is_success
        for curl in asked:
            answer = await client.request(curl.method, curl.url, content=curl.body, headers=curl.headers)
            assert answer.is_success, f"{curl.where}: {answer.text}"
