"""One GET over a connection of its own, for questions to a fleet: no state is kept between two of them.

A client with a pool looks through all the connections it holds at every request, which in a fleet of 1,000 costs more
than the request. Here a question costs one connection; httptools parses the answer, which is bounded in time and size.
"""

from __future__ import annotations

import asyncio

import httptools

from pointsman.haproxy.config import join_host_port
from pointsman.router.errors import ScrapeError


class NoAnswerError(Exception):
    """No whole answer came: refused, cut, too slow, or not HTTP. The message says which."""


async def http_get(host: str, port: int, path: str, *, timeout_s: float, max_bytes: int) -> tuple[int, bytes]:
    """Status and body of `GET path`. `timeout_s` bounds all of it, `max_bytes` the body.

    Raises ScrapeError for a longer body, NoAnswerError where there is no answer.
    """
    loop = asyncio.get_running_loop()
    transport: asyncio.Transport | None = None
    try:
        async with asyncio.timeout(timeout_s):
            transport, answer = await loop.create_connection(lambda: _Answer(max_bytes, loop), host, port)
            transport.write(
                f"GET {path} HTTP/1.1\r\nHost: {join_host_port(host, port)}\r\n"
                "Accept-Encoding: identity\r\nConnection: close\r\n\r\n".encode("ascii")
            )
            return await answer.whole
    except OSError as error:  # TimeoutError is one
        raise NoAnswerError(type(error).__name__) from error
    finally:
        if transport is not None:
            transport.abort()


class _Answer(asyncio.Protocol):
    """One answer on its way in; the callbacks are those of httptools."""

    def __init__(self, max_bytes: int, loop: asyncio.AbstractEventLoop) -> None:
        self.whole: asyncio.Future[tuple[int, bytes]] = loop.create_future()
        self._max_bytes = max_bytes
        self._parser = httptools.HttpResponseParser(self)
        self._body = bytearray()
        self._begun = False
        self._ends_with_connection = True

    def data_received(self, data: bytes) -> None:
        if self.whole.done():
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(NoAnswerError(type(error).__name__))

    def connection_lost(self, exc: Exception | None) -> None:
        if self._begun and self._ends_with_connection and exc is None:
            self.on_message_complete()
        self._fail(NoAnswerError("ConnectionResetError" if exc else "EOFError"))

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() in (b"content-length", b"transfer-encoding"):
            self._ends_with_connection = False

    def on_headers_complete(self) -> None:
        self._begun = True

    def on_body(self, body: bytes) -> None:
        self._body += body
        if len(self._body) > self._max_bytes:
            self._fail(ScrapeError(f"more than {self._max_bytes} bytes"))

    def on_message_complete(self) -> None:
        if not self.whole.done():
            self.whole.set_result((self._parser.get_status_code(), bytes(self._body)))

    def _fail(self, error: Exception) -> None:
        if not self.whole.done():
            self.whole.set_exception(error)
