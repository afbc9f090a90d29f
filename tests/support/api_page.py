"""docs/admin-api.md as something to run: its commands, in order, against a router and a driver of a fleet.

    PYTHONPATH=. .venv/bin/python tests/support/api_page.py

writes the answers on the page again. The page shows those of a router at http://127.0.0.1:8001 that has two replicas,
and of a driver at http://127.0.0.1:9000 that has one pool.
"""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import msgspec
import uvicorn
from curl_lines import Curl, parsed
from ring_line import line
from router_fixture import client_of, register, running_router
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pointsman.contract.events import EngineEvents, Finished, FirstToken, RequestUsage
from pointsman.contract.pools import PoolMember, PoolStatus
from pointsman.contract.registration import Role
from pointsman.policies.request import RequestFeatures
from pointsman.router.app import Router
from pointsman.router.tenancy.records import ApiKey

PAGE = Path(__file__).parents[2] / "docs" / "admin-api.md"
ADMIN = "http://127.0.0.1:8001"
DRIVER = "http://127.0.0.1:9000"
WIDTH = 116

REQUEST = "6f1c9ad2-5be1-4c0f-9a52-3d2f1d4be1a7"
"""The edge's id of the request on the page."""

POOL = PoolStatus(
    name="chat",
    model="Qwen/Qwen3-8B",
    role=Role.BOTH,
    replicas=1,
    replicas_max=512,
    ready=1,
    state="ready",
    revision="5f1d",
    members=[PoolMember(id="chat-1", state="ready", revision="5f1d", deaths=0, urls=["http://10.0.0.7:8000"])],
)

BLOCK = re.compile(r"^```console\n(.*?)^```", flags=re.M | re.S)

VOLATILE = {
    "at",
    "lease_left_s",
    "digest",
    "count",
    "terms",
    "score",
    "heard_s",
    "revision",
    "since",
    "until",
    "started",
    "version",
    "bytes",
    "last_active",
    "from",
    "to",
    "hour",
}
"""Keys whose values differ from run to run."""


class Shown(NamedTuple):
    """A command of the page, its text, what its answer is piped through, and the answer below it."""

    curl: Curl
    text: str
    pipe: str
    answer: str


def shown() -> list[Shown]:
    """The commands of the page's console blocks, in order."""
    return [one for block in BLOCK.findall(PAGE.read_text()) for one in commands(block)]


def commands(block: str) -> Iterator[Shown]:
    """The commands of one block; a line that ends in a backslash goes on in the next."""
    for part in re.split(r"^(?=\$ )", block, flags=re.M):
        if match := re.match(r"((?:.*\\\n)*.*)\n?([\s\S]*)", part) if part.strip() else None:
            text, answer = match.groups()
            line = re.sub(r" \\\n\s*", " ", text)
            yield Shown(parsed(PAGE, line), text, line.partition(" | ")[2], answer.strip("\n"))


KEY = ApiKey(id="3k9w2mxf7hqp", tenant="acme", hash="0" * 64, created_s=1_796_040_000.0, note="nightly jobs")
"""A key that is there already: others have another id each time."""


@asynccontextmanager
async def running_example() -> AsyncIterator[tuple[httpx.AsyncClient, str]]:
    """A client of the router's admin API, and the URL of the driver."""
    async with (
        running_router(scrape={"enabled": False}, shared={"edge": "edge-1"}) as router,
        client_of(router) as client,
        running_driver() as driver,
    ):
        await register(router, "sim-1", "sim-2", model="sim")
        serve_one_request(router)
        router.core.book.write(f"key/{KEY.id}", msgspec.to_builtins(KEY))
        yield client, driver


def serve_one_request(router: Router) -> None:
    """One request of a client, from HAProxy's lookup to the end that engine and HAProxy report."""
    core, now_s = router.core, router.clock()
    asked = RequestFeatures(
        request_id=REQUEST, path="/v1/chat/completions", model="sim", session="me", body_bytes=4000, max_tokens=64
    )
    chosen = core.decide(asked, now_s).first
    first, finished = FirstToken(REQUEST, 988, 0, 41.2), Finished(REQUEST, 988, 64, 630.0, "stop")
    told = {"first": [first], "finished": [finished], "usage": [RequestUsage(REQUEST, 988, 0, 64, 671.2)]}
    core.engine_events(chosen, EngineEvents(epoch="1", seq=0, snapshot=True, **told), now_s)
    ended = line(id=REQUEST, srv=chosen, first=chosen, reason="kv-cold", ta=674, cid="trace-7")
    core.end_of_request.apply(ended, now_s)


@asynccontextmanager
async def running_driver() -> AsyncIterator[str]:
    """The control port of a fleet's driver, which answers every order with its pool."""

    async def take(request: Request) -> Response:
        return Response(msgspec.json.encode(POOL), 202, media_type="application/json")

    app = Starlette(routes=[Route("/{path:path}", take, methods=["PUT", "POST"])])
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_config=None, lifespan="off"))
    task = asyncio.create_task(server._serve())
    while not server.started:
        await asyncio.sleep(0)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = server.force_exit = True
        await task


async def ask(client: httpx.AsyncClient, driver: str, curl: Curl) -> httpx.Response:
    """The answer to a command of the page."""
    assert curl.url.startswith(ADMIN), curl.where
    body = curl.body.replace(DRIVER, driver) if curl.body is not None else None
    return await client.request(curl.method, curl.url.removeprefix(ADMIN), content=body, headers=curl.headers)


def differs(expected: Any, actual: Any, at: str = "") -> str:
    """Where an answer is not what the page shows; empty when it is. Numbers need the same kind, not the same value."""
    if isinstance(expected, dict) and isinstance(actual, dict):
        if expected.keys() != actual.keys() and at.rpartition(".")[2] not in VOLATILE:
            return f"{at}: keys {sorted(expected.keys() ^ actual.keys())}"
        return next(filter(None, (differs(expected[k], actual[k], f"{at}.{k}") for k in expected if k in actual)), "")
    if isinstance(expected, list) and isinstance(actual, list):
        if len(expected) != len(actual):
            return f"{at}: {len(expected)} items, not {len(actual)}"
        pairs = enumerate(zip(expected, actual, strict=True))
        return next(filter(None, (differs(one, other, f"{at}[{n}]") for n, (one, other) in pairs)), "")
    if at.rpartition(".")[2] in VOLATILE:
        return ""
    if isinstance(expected, int | float) and isinstance(actual, int | float) and not isinstance(expected, bool):
        return ""
    return "" if expected == actual else f"{at}: {expected!r}, not {actual!r}"


def as_shown(command: Shown, answer: httpx.Response) -> str:
    """An answer as the page shows it: through its pipe, JSON on short lines, a status line where there is no body."""
    if command.pipe:
        piped = subprocess.run(command.pipe, shell=True, input=answer.text, capture_output=True, text=True, timeout=10)
        return piped.stdout.rstrip("\n")
    if not answer.text:
        return f"HTTP/1.1 {answer.status_code} {answer.reason_phrase}"
    is_json = "json" in answer.headers["content-type"]
    return on_lines(json.loads(answer.text)) if is_json else answer.text.rstrip("\n")


def on_lines(value: Any, indent: int = 0) -> str:
    """JSON with as many items on a line as fit."""
    flat = json.dumps(value)
    if len(flat) + indent <= WIDTH or not isinstance(value, dict | list):
        return flat
    pad = " " * (indent + 2)
    if isinstance(value, list):
        return "[\n" + ",\n".join(pad + on_lines(one, indent + 2) for one in value) + "\n" + pad[2:] + "]"
    lines: list[str] = []
    for item in (f"{json.dumps(key)}: {on_lines(one, indent + 2)}" for key, one in value.items()):
        if lines and "\n" not in lines[-1] + item and len(pad + lines[-1] + item) + 2 <= WIDTH:
            lines[-1] += f", {item}"
        else:
            lines.append(item)
    return "{\n" + ",\n".join(pad + line for line in lines) + "\n" + pad[2:] + "}"


async def rewrite() -> None:
    """Writes the page with the answers of this code."""
    page = PAGE.read_text()
    async with running_example() as (client, driver):
        for block in BLOCK.findall(page):
            parts = [f"{one.text}\n{as_shown(one, await ask(client, driver, one.curl))}\n" for one in commands(block)]
            page = page.replace(block, "".join(parts), 1)
    PAGE.write_text(page)


if __name__ == "__main__":
    asyncio.run(rewrite())
