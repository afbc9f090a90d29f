"""The curl lines of README and docs: what they send is what is taken."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import httpx
import msgspec
import pytest
from pages import PAGES

from pointsman.router.app import Router
from pointsman.router.settings import load_settings

ADMIN_PORT = 8001


class Curl(NamedTuple):
    """One command line of a page."""

    where: str
    method: str
    url: str
    headers: dict[str, str]
    body: str | None


def curl_lines(page: Path) -> list[Curl]:
    """The curl commands of a page's blocks, continued lines joined, pipes cut off."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", page.read_text(), flags=re.M | re.S)
    lines = [line for block in blocks for line in re.sub(r"\\\n\s*", "", block).splitlines()]
    return [parsed(page, line) for line in lines if re.match(r"(\$ )?curl ", line)]


def parsed(page: Path, line: str) -> Curl:
    words = shlex.split(line.removeprefix("$ "), comments=True)
    words = words[1 : words.index("|") if "|" in words else None]
    headers, url, body, method = {}, "", None, ""
    while words:
        word = words.pop(0)
        if word == "-H":
            name, _, value = words.pop(0).partition(": ")
            headers[name.lower()] = value
        elif word == "-d":
            body = words.pop(0)
        elif word == "-X":
            method = words.pop(0)
        elif not word.startswith("-"):
            url = word if "://" in word else f"http://{word}"
    return Curl(f"{page.name}: {line}", method or ("GET" if body is None else "POST"), url, headers, body)


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
    assert len(asked) > 8
    async with httpx.AsyncClient(transport=transport) as client:
        for name in ("sim-2", "gpu-1"):
            url = f"http://localhost:{ADMIN_PORT}/v1/replicas/{name}"
            assert (await client.put(url, json={"url": "http://127.0.0.1:9"})).is_success
        for curl in asked:
            answer = await client.request(curl.method, curl.url, content=curl.body, headers=curl.headers)
            assert answer.is_success, f"{curl.where}: {answer.text}"
