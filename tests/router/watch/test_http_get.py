"""One GET over a connection of its own."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from pointsman.router.errors import ScrapeError
from pointsman.router.watch.http_get import NoAnswerError, http_get


@asynccontextmanager
async def answering(*pieces: bytes, closes: bool = True) -> AsyncIterator[int]:
    """The port of a server that answers every connection's first request with these bytes, piece by piece."""
    ended = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            await reader.readuntil(b"\r\n\r\n")
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0)
            if not closes:
                await ended.wait()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        ended.set()
        server.close()


async def get(port: int, *, timeout_s: float = 5.0) -> tuple[int, bytes]:
    return await http_get("127.0.0.1", port, "/metrics", timeout_s=timeout_s, max_bytes=100)


@pytest.mark.parametrize(
    "pieces",
    [
        pytest.param((b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n", b"pa", b"ge"), id="with a length"),
        pytest.param(
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\npa\r\n", b"2\r\nge\r\n0\r\n\r\n"), id="chunked"
        ),
        pytest.param((b"HTTP/1.0 200 OK\r\n\r\npa", b"ge"), id="to the end of the connection"),
    ],
)
async def test_an_answer_is_read_whole(pieces: tuple[bytes, ...]) -> None:
    """By any of the three ways in which HTTP/1.1 says where a body ends."""
    async with answering(*pieces) as port:
        assert await get(port) == (200, b"page")


async def test_a_status_is_an_answer() -> None:
    """What it means is for the caller to say."""
    async with answering(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n") as port:
        assert await get(port) == (404, b"")


async def test_a_body_beyond_the_limit_is_not_read_to_its_end() -> None:
    """Also where nothing says that it ends."""
    async with answering(b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 101, closes=False) as port:
        with pytest.raises(ScrapeError, match="more than 100 bytes"):
            await get(port)


@pytest.mark.parametrize(
    ("pieces", "problem"),
    [
        pytest.param((b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", b"short"), "EOFError", id="cut"),
        pytest.param((b"SSH-2.0-OpenSSH_9.2\r\n",), "HttpParser", id="no HTTP"),
        pytest.param((), "EOFError", id="closed"),
    ],
)
async def test_what_is_no_answer_says_why(pieces: tuple[bytes, ...], problem: str) -> None:
    """A page that is cut short is not taken for a page."""
    async with answering(*pieces) as port:
        with pytest.raises(NoAnswerError, match=problem):
            await get(port)


async def test_a_silent_server_takes_the_time_allowed_and_no_longer() -> None:
    """One limit for everything: a server that sends a byte now and then is given up as well."""
    async with answering(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", closes=False) as port:
        with pytest.raises(NoAnswerError, match="TimeoutError"):
            await get(port, timeout_s=0.05)


async def test_a_refused_connection_says_so() -> None:
    """Nobody listens there."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        with pytest.raises(NoAnswerError, match="ConnectionRefusedError"):
            await get(closed.getsockname()[1])
