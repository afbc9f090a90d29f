"""uvicorn inside the router's process."""

from __future__ import annotations

import asyncio
import socket
from contextlib import AsyncExitStack
from email.utils import parsedate_to_datetime

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from pointsman.contract import http_server
from pointsman.router.process.http_servers import serve_http


def listening() -> socket.socket:
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    sock.listen()
    return sock


def unexpected() -> None:
    raise AssertionError("the server ended by itself")


async def hello(request: Request) -> PlainTextResponse:
    return PlainTextResponse("hello")


async def test_a_server_serves_until_its_stack_unwinds(monkeypatch: pytest.MonkeyPatch) -> None:
    """It answers once `serve_http` returns, and is told to stop, not found out at the next tick."""
    monkeypatch.setattr(http_server, "TICK_S", 3600.0)
    sock = listening()
    url = f"http://127.0.0.1:{sock.getsockname()[1]}"
    async with asyncio.timeout(10):
        async with AsyncExitStack() as stack:
            await serve_http(stack, "test", sock, Starlette(routes=[Route("/", hello)]), unexpected)
            async with httpx.AsyncClient(trust_env=False) as client:
                assert (await client.get(url)).text == "hello"
    async with httpx.AsyncClient(trust_env=False) as client:
        with pytest.raises(httpx.ConnectError):
            await client.get(url)


async def test_the_date_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers carry the second at which they are given."""
    monkeypatch.setattr(http_server, "TICK_S", 0.01)
    sock = listening()
    async with AsyncExitStack() as stack:
        await serve_http(stack, "test", sock, Starlette(routes=[Route("/", hello)]), unexpected)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{sock.getsockname()[1]}", trust_env=False) as client:
            first = parsedate_to_datetime((await client.get("/")).headers["date"])
            async with asyncio.timeout(10):
                while parsedate_to_datetime((await client.get("/")).headers["date"]) == first:
                    await asyncio.sleep(0.05)
