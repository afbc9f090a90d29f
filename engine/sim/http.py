"""HTTP/1.1 on a raw asyncio protocol: requests whole, responses as bytes.

`Connection` parses with httptools, collects each request's body, and hands one `Exchange` at a time to the server's
handler: pipelined requests wait their turn, so responses cannot overtake each other. It knows nothing about vLLM.

Header names and order of responses are uvicorn's. As there, a stream is chunked whatever HTTP version asked for it, and
a client that closes its sending side has left.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import deque
from collections.abc import Callable, Iterable
from email.utils import formatdate
from http import HTTPStatus
from typing import cast

import httptools

BODY_BYTES_MAX = 64 * 2**20
"""A longer request body is answered 413: it is held in memory, and no prompt within a context length needs it."""
HEAD_BYTES_MAX = 64 * 2**10
"""A longer request head is answered 431; uvicorn's parser has the same limit."""
PIPELINED_MAX = 16
"""Whole requests waiting behind the active one before the connection stops reading."""

REASONS = {status.value: status.phrase.encode() for status in HTTPStatus}
_RESET = struct.pack("ii", 1, 0)

Headers = list[tuple[bytes, bytes]]


class Exchange:
    """One request and its response. The handler answers with `respond`, or with `start`, `write` and `finish`."""

    __slots__ = (
        "_connection",
        "body",
        "headers",
        "keep_alive",
        "method",
        "on_lost",
        "on_writable",
        "refusal",
        "target",
    )

    def __init__(self, connection: Connection, method: str, target: bytes, headers: Headers, keep_alive: bool) -> None:
        self._connection = connection
        self.method = method
        self.target = target
        self.headers = headers
        self.keep_alive = keep_alive
        self.body = b""
        self.refusal: tuple[int, bytes] | None = None
        """Status and text for what never became a request."""
        self.on_lost: Callable[[], None] | None = None
        """Called once if the client leaves before `finish`."""
        self.on_writable: Callable[[], None] | None = None
        """Called when a paused connection takes bytes again."""

    @property
    def path(self) -> str:
        """The target without its query, as sent."""
        return self.target.partition(b"?")[0].decode("latin-1")

    @property
    def paused(self) -> bool:
        """The client reads too slowly: hold back until `on_writable`."""
        return self._connection.paused

    @property
    def lost(self) -> bool:
        """The client has left; writes go nowhere."""
        return self._connection.transport is None

    def header(self, name: bytes) -> bytes | None:
        """First value of a header, by lower-case name."""
        for key, value in self.headers:
            if key.lower() == name:
                return value
        return None

    def respond(
        self,
        status: int,
        body: bytes = b"",
        content_type: str = "application/json",
        headers: Iterable[tuple[str, str]] = (),
    ) -> None:
        """Send a whole response."""
        lines = [b"content-length: %d" % len(body)]
        if content_type:
            lines.append(b"content-type: " + content_type.encode())
        lines += [f"{name}: {value}".encode("latin-1") for name, value in headers]
        self.write(self._head(status, lines, []) + (b"" if self.method == "HEAD" else body))
        self.finish()

    def start(self, content_type: str) -> None:
        """Send the head of a chunked response; what follows is `write`n in chunk framing."""
        self.write(self._head(200, [b"content-type: " + content_type.encode()], [b"transfer-encoding: chunked"]))

    def write(self, data: bytes) -> None:
        """Send bytes as they are."""
        transport = self._connection.transport
        if transport is not None:
            transport.write(data)

    def finish(self) -> None:
        """The response is complete; the next request of the connection may be served."""
        self.on_lost = self.on_writable = None
        self._connection.exchange_finished(self)

    def reset(self) -> None:
        """Cut the connection with a TCP reset, whatever was sent."""
        self._connection.reset()

    def _head(self, status: int, lines: list[bytes], framing: list[bytes]) -> bytes:
        service = self._connection.service
        head = b"HTTP/1.1 %d %b\r\ndate: %b\r\nserver: uvicorn\r\n" % (status, REASONS.get(status, b""), service.date())
        close = [] if self.keep_alive else [b"connection: close"]
        return head + b"\r\n".join([*lines, *service.headers, *close, *framing]) + b"\r\n\r\n"


class Service:
    """What all connections of one server share: the handler, the open connections, the date line."""

    def __init__(
        self, handle: Callable[[Exchange], None], loop: asyncio.AbstractEventLoop, headers: Iterable[bytes] = ()
    ) -> None:
        self.handle = handle
        self.loop = loop
        self.headers = list(headers)
        """Header lines of every response."""
        self.connections: set[Connection] = set()
        self.closing = False
        """Responses close their connection from here on."""
        self._date = (-1, b"")
        self._none_open = asyncio.Event()
        self._none_open.set()

    def connection(self) -> Connection:
        """Protocol factory."""
        return Connection(self)

    def date(self) -> bytes:
        """The date header's value, formatted once a second."""
        second = int(self.loop.time())
        if second != self._date[0]:
            self._date = (second, formatdate(usegmt=True).encode())
        return self._date[1]

    def opened(self, connection: Connection) -> None:
        """A client connected."""
        self.connections.add(connection)
        self._none_open.clear()

    def lost(self, connection: Connection) -> None:
        """A connection is gone."""
        self.connections.discard(connection)
        if not self.connections:
            self._none_open.set()

    async def close(self, grace_s: float) -> None:
        """Close every connection: at once where something is being answered, else when the client took the rest."""
        for connection in list(self.connections):
            if connection.idle:
                connection.close()
            else:
                connection.abort()
        try:
            async with asyncio.timeout(grace_s):
                await self._none_open.wait()
        except TimeoutError:
            for connection in list(self.connections):
                connection.abort()
            await self._none_open.wait()

    def close_idle(self, idle_s: float) -> None:
        """Close connections that have waited for a request for `idle_s` or longer."""
        oldest_s = self.loop.time() - idle_s
        for connection in [c for c in self.connections if c.idle and c.idle_since_s <= oldest_s]:
            connection.close()


class Connection(asyncio.Protocol):
    """One client connection."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.transport: asyncio.Transport | None = None
        self.paused = False
        self.idle_since_s = service.loop.time()
        self._parser = httptools.HttpRequestParser(self)
        self._active: Exchange | None = None
        self._queue: deque[Exchange] = deque()
        self._incoming: Exchange | None = None
        self._target = b""
        self._headers: Headers = []
        self._receiving = self._in_head = False
        self._head_bytes = self._body_bytes = 0
        self._body: list[bytes] = []
        self._awaits_continue = False
        self._refused = False

    @property
    def idle(self) -> bool:
        """Nothing is being received or answered."""
        return self._active is None and not self._queue and not self._receiving

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have asyncio's methods without being its subclasses.
        self.transport = cast(asyncio.Transport, transport)
        self.service.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self.service.lost(self)
        self._queue.clear()
        active, self._active = self._active, None
        if active is not None and active.on_lost is not None:
            active.on_lost()

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            # The request is served as plain HTTP; what follows belongs to a protocol nobody speaks here.
            self._refused = True
        except httptools.HttpParserCallbackError:
            raise  # our own mistake, not the client's
        except httptools.HttpParserError:
            self._refuse(400, b"Invalid HTTP request received.")
        if self._in_head:
            # A header still on its way is the parser's; count what it was fed.
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES_MAX:
                self._refuse(431, b"Request header fields too large.")
        self._next()
        if len(self._queue) >= PIPELINED_MAX and self.transport is not None:
            self.transport.pause_reading()

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        if self._active is not None and self._active.on_writable is not None:
            self._active.on_writable()

    # httptools callbacks

    def on_message_begin(self) -> None:
        self._target = b""
        self._headers = []
        self._body = []
        self._receiving = self._in_head = True
        self._head_bytes = self._body_bytes = 0

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        parser = self._parser
        exchange = Exchange(
            self, parser.get_method().decode("latin-1"), self._target, self._headers, parser.should_keep_alive()
        )
        self._incoming = exchange
        self._in_head = False
        if len(self._target) + sum(len(name) + len(value) for name, value in self._headers) > HEAD_BYTES_MAX:
            self._refuse(431, b"Request header fields too large.")
            return
        length = exchange.header(b"content-length")
        if length is not None and int(length) > BODY_BYTES_MAX:
            self._refuse(413, b"Request body too large.")
            return
        if (exchange.header(b"expect") or b"").lower() == b"100-continue":
            self._awaits_continue = True
            self._send_continue()

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        if self._body_bytes > BODY_BYTES_MAX:
            self._refuse(413, b"Request body too large.")
        elif not self._refused:
            self._body.append(body)

    def on_message_complete(self) -> None:
        exchange, self._incoming = self._incoming, None
        self._awaits_continue = False
        self._receiving = False
        if exchange is None or self._refused:
            return
        exchange.body = b"".join(self._body)
        self._body = []
        self._queue.append(exchange)

    # The order of exchanges

    def exchange_finished(self, exchange: Exchange) -> None:
        """Called by `Exchange.finish`."""
        if exchange is not self._active:
            return
        self._active = None
        self.idle_since_s = self.service.loop.time()
        if self.transport is None:
            return
        if not exchange.keep_alive:
            self._queue.clear()
            self.transport.close()
        elif self._queue:
            # From the loop, so that a long queue of short answers does not nest.
            self.service.loop.call_soon(self._next)
        elif self._refused:
            self.transport.close()
        else:
            self._send_continue()

    def close(self) -> None:
        """Close after what was written is sent."""
        if self.transport is not None:
            self.transport.close()

    def abort(self) -> None:
        """Drop the connection and what was not sent."""
        if self.transport is not None:
            self.transport.abort()

    def reset(self) -> None:
        """Drop the connection with a TCP reset."""
        if self.transport is None:
            return
        sock = self.transport.get_extra_info("socket")
        if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.transport.abort()

    def _next(self) -> None:
        if self._active is not None or not self._queue or self.transport is None:
            return
        exchange = self._active = self._queue.popleft()
        if len(self._queue) == PIPELINED_MAX - 1:
            self.transport.resume_reading()
        if self.service.closing:
            exchange.keep_alive = False
        if exchange.refusal is not None:
            status, text = exchange.refusal
            exchange.respond(status, text, "text/plain; charset=utf-8")
        else:
            self.service.handle(exchange)

    def _send_continue(self) -> None:
        """Ask for the body a client holds back, once nothing is being answered on this connection."""
        if self._awaits_continue and self._active is None and not self._queue and self.transport is not None:
            self._awaits_continue = False
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _refuse(self, status: int, text: bytes) -> None:
        """What cannot be parsed or held ends the connection; it is answered after what came before it."""
        if self._refused:
            return
        self._refused = True
        self._body = []
        refused = Exchange(self, "GET", b"", [], False)
        refused.refusal = (status, text)
        self._queue.append(refused)
