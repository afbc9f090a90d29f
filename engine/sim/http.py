"""The simulated engine's HTTP/1.1: uvicorn's connections, with answers written from synchronous code.

`Service` is the ASGI application of one replica and owns its connections. It hands each whole request to a handler as
an `Exchange`, which the handler answers now or later. uvicorn parses requests, keeps pipelined ones in order and frames
heads and ends of answers. The chunks of a stream go straight to the transport, ready made: one ASGI message a token
would cost a tenth more CPU, and simulated replicas share their cores with what a bench measures. The module knows
nothing about vLLM.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable, Iterable, Iterator
from email.utils import formatdate
from typing import Any, cast

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

BODY_BYTES_MAX = 64 * 2**20
"""A longer request body is answered 413: it is held in memory, and no prompt within a context length needs it."""
BACKLOG = 2048
"""Connections the kernel keeps until they are accepted; uvicorn's default."""
DATE_S = 1.0
"""Between two updates of the Date header, which counts seconds."""

_RESET = struct.pack("ii", 1, 0)
_EXTENSION = "pointsman"

Headers = list[tuple[bytes, bytes]]


class Exchange:
    """One request and its response. The handler answers with `respond`, or with `start`, `write` and `finish`."""

    __slots__ = (
        "_by_name", "_connection", "_ended", "_head", "_headers", "body", "headers", "lost", "method", "on_lost",
        "on_writable", "path", "paused", "query",
    )  # fmt: skip

    def __init__(self, scope: Any, body: bytes, connection: Connection, answer_headers: Headers) -> None:
        """`answer_headers` are added to every answer."""
        self._connection = connection
        self._headers = answer_headers
        self._head: asyncio.Future[tuple[int, Headers, bytes | None] | None] = connection.loop.create_future()
        self._ended: asyncio.Future[None] = connection.loop.create_future()
        self.method: str = scope["method"]
        self.path: str = scope["raw_path"].decode("latin-1")
        """The target without its query, as sent."""
        self.query: bytes = scope["query_string"]
        self.headers: Headers = scope["headers"]
        """Names are in lower case."""
        self._by_name = dict(self.headers)
        self.body = body
        self.lost = False
        """The client has left; writes go nowhere."""
        self.paused = True
        """The head is not sent yet, or the client reads too slowly: hold back until `on_writable`."""
        self.on_lost: Callable[[], None] | None = None
        """Called once if the client leaves before `finish`."""
        self.on_writable: Callable[[], None] | None = None
        """Called when a stream takes bytes, first or again."""

    def header(self, name: bytes) -> bytes | None:
        """Value of a header, by lower-case name; the last one where there are several."""
        return self._by_name.get(name)

    def text(self, name: bytes) -> str:
        """Return a header's value as text; empty where the request has none."""
        value = self.header(name)
        return value.decode("latin-1") if value else ""

    def respond(
        self,
        status: int,
        body: bytes = b"",
        content_type: str = "application/json",
        headers: Iterable[tuple[str, str]] = (),
    ) -> None:
        """Send a whole response."""
        lines = [(b"content-length", b"%d" % len(body))]
        if content_type:
            lines.append((b"content-type", content_type.encode()))
        lines += [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
        self._answer(status, lines, body)

    def start(self, content_type: str) -> None:
        """Send the head of a chunked response; `on_writable` says when its chunks may follow."""
        self._answer(200, [(b"content-type", content_type.encode())], None)

    def write(self, chunks: bytes) -> None:
        """Send chunks of a stream that was started, chunk framing included."""
        if not self.lost:
            self._connection.chunks.write(chunks)

    def finish(self) -> None:
        """End a stream; the next request of the connection may be served."""
        self.on_lost = self.on_writable = None
        if not self._ended.done():
            self._ended.set_result(None)

    def reset(self) -> None:
        """Cut the connection with a TCP reset, whatever was sent."""
        self._connection.reset()

    def leave(self) -> None:
        """Note that the client left; called by the connection."""
        self.lost = True
        on_lost, self.on_lost = self.on_lost, None
        if on_lost is not None:
            on_lost()
        if not self._head.done():
            self._head.set_result(None)
        self.finish()

    def pause(self, paused: bool) -> None:
        """Hold a stream back, or let it go on; called by the connection."""
        if paused:
            self.paused = True
        elif self._head.done():
            self._go_on()

    async def answer(self, send: Callable[[Any], Any]) -> None:
        """Send what the handler answers, as ASGI messages; returns when the answer is complete or the client left."""
        head = await self._head
        if head is None:
            return
        status, headers, body = head
        start = {"type": "http.response.start", "status": status, "headers": headers}
        if body is not None:
            with self._connection.one_write():
                await send(start)
                await send({"type": "http.response.body", "body": body})
            return
        await send(start)
        self._go_on()
        await self._ended
        if not self.lost:
            await send({"type": "http.response.body"})

    def _answer(self, status: int, headers: Headers, body: bytes | None) -> None:
        if not self._head.done():
            self._head.set_result((status, headers + self._headers, body))

    def _go_on(self) -> None:
        self.paused = self._connection.flow.write_paused
        if not self.paused and self.on_writable is not None:
            self.on_writable()


class _HoldingTransport:
    """A transport that can hold writes back and send them as one: a system call costs as much as a token."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._held: list[bytes] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send bytes, or hold them back."""
        if self._held is None:
            self._transport.write(data)
        else:
            self._held.append(data)

    def close(self) -> None:
        """Send what is held back and close."""
        self.release()
        self._transport.close()

    def hold(self) -> None:
        """Hold writes back from here on."""
        self._held = []

    def release(self) -> None:
        """Send what is held back."""
        held, self._held = self._held, None
        if held:
            self._transport.write(b"".join(held))


class Connection(HttpToolsProtocol):
    """A uvicorn connection that reports writability and loss to the active exchange, and can be reset."""

    def __init__(self, service: Service, config: uvicorn.Config, state: ServerState) -> None:
        super().__init__(config, state, {}, service.loop)
        self._service = service
        self.active: Exchange | None = None
        """The request that is being answered."""
        self.lost = False
        """Whether the client has left."""
        self.chunks: asyncio.Transport
        """Where the chunks of streams are written."""

    @contextlib.contextmanager
    def one_write(self) -> Iterator[None]:
        """Send what is written meanwhile at once."""
        self._holding.hold()
        try:
            yield
        finally:
            self._holding.release()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclasses of asyncio's.
        self.chunks = cast(asyncio.Transport, transport)
        self._holding = _HoldingTransport(self.chunks)
        super().connection_made(cast(asyncio.Transport, self._holding))

    @property
    def idle(self) -> bool:
        """Whether nothing is being answered, and no request has come in whole."""
        return self.cycle is None or self.cycle.response_complete

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = {_EXTENSION: {"connection": self}}

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.lost = True
        if self.active is not None:
            self.active.leave()
        self._service.connection_lost()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self.active is not None:
            self.active.pause(True)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.active is not None:
            self.active.pause(False)

    def reset(self) -> None:
        """Drop the connection with a TCP reset."""
        sock = self.transport.get_extra_info("socket")
        if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.transport.abort()


class Service:
    """The ASGI application of one replica, its port and its connections. Made inside a running event loop."""

    def __init__(
        self,
        handle: Callable[[Exchange], None],
        loop: asyncio.AbstractEventLoop,
        headers: Iterable[tuple[bytes, bytes]] = (),
        keep_alive_s: float = 5.0,
    ) -> None:
        """`headers` are added to every answer; idle connections are closed after `keep_alive_s`."""
        self.loop = loop
        self._handle = handle
        self._headers = list(headers)
        self._config = uvicorn.Config(
            self,
            interface="asgi3",
            lifespan="off",
            ws="none",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            # A float is as good for the timer it ends in.
            timeout_keep_alive=keep_alive_s,  # type: ignore[arg-type]
        )
        self._config.load()
        self._state = ServerState()
        self._none_open = asyncio.Event()
        self._listener: asyncio.Server | None = None
        self._address = ("", 0)
        self._timer: asyncio.TimerHandle | None = None

    @property
    def connections(self) -> list[Connection]:
        """Connections that are open."""
        return [connection for connection in self._state.connections if isinstance(connection, Connection)]

    async def listen(self, host: str, port: int) -> int:
        """Accept connections; answers the port, which the OS picks for 0. Raises OSError for an address in use."""
        self._listener = await self.loop.create_server(
            lambda: Connection(self, self._config, self._state), host, port, backlog=BACKLOG, reuse_address=True
        )
        self._address = (host, self._listener.sockets[0].getsockname()[1])
        if self._timer is None:
            self._renew_date()
        return self._address[1]

    async def listen_again(self) -> None:
        """Accept connections where `listen` did."""
        await self.listen(*self._address)

    def stop_listening(self) -> None:
        """Refuse connections; those that are open stay."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def connection_lost(self) -> None:
        """Note that a connection is gone; called by it."""
        if not self._state.connections:
            self._none_open.set()

    def close_idle(self) -> None:
        """Close connections on which nothing is being answered."""
        for connection in self.connections:
            if connection.idle:
                connection.transport.close()

    def shut_down(self) -> None:
        """Close idle connections now and the others with their answers."""
        for connection in self.connections:
            connection.shutdown()

    async def close(self, grace_s: float) -> None:
        """Close every connection: at once where something is being answered, else when the client took the rest."""
        self.stop_listening()
        if self._timer is not None:
            self._timer.cancel()
        for connection in self.connections:
            if connection.idle:
                connection.transport.close()
            else:
                connection.transport.abort()
        self._none_open.clear()
        if not self._state.connections:
            return
        try:
            async with asyncio.timeout(grace_s):
                await self._none_open.wait()
        except TimeoutError:
            for connection in self.connections:
                connection.transport.abort()
            await self._none_open.wait()

    async def __call__(self, scope: Any, receive: Callable[[], Any], send: Callable[[Any], Any]) -> None:
        """Serve one request: the ASGI application."""
        connection: Connection = scope["extensions"][_EXTENSION]["connection"]
        body = await _whole_body(scope, receive)
        exchange = Exchange(scope, body or b"", connection, self._headers)
        if connection.lost:
            return
        connection.active = exchange
        if body is None:
            text = b"Request body too large."
            exchange.respond(413, text, "text/plain; charset=utf-8", [("connection", "close")])
        else:
            self._handle(exchange)
        await exchange.answer(send)
        connection.active = None

    def _renew_date(self) -> None:
        date = (b"date", formatdate(usegmt=True).encode())
        self._state.default_headers = [date, *self._config.encoded_headers]
        self._timer = self.loop.call_later(DATE_S, self._renew_date)


async def _whole_body(scope: Any, receive: Callable[[], Any]) -> bytes | None:
    """The body of a request, as far as it came; None when it is too long."""
    for name, value in scope["headers"]:
        if name == b"content-length" and int(value) > BODY_BYTES_MAX:
            return None
    pieces: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        pieces.append(message.get("body", b""))
        size += len(pieces[-1])
        if size > BODY_BYTES_MAX:
            return None
        if not message.get("more_body", False):
            return b"".join(pieces)
