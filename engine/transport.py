"""Transport of an engine's messages to one listener: the interface between `Publisher` and HTTP or feed.

A transport sends one message at a time and returns the listener's answer. A transport keeps no messages: one that was
not accepted is lost, and the publisher makes up for it with a snapshot. Where a transport sees that the listener hung
up, it calls back, since a listener that starts again knows nothing.

`HttpTransport` posts to `POST /v1/replicas/{id}/events` of a router's admin API. `RouterTransport` begins with HTTP and
changes to a connection that stays open once the router has named its port (router/fronts/feed.py), which costs both
sides a fraction; where that port cannot be reached, the transport stays with HTTP. docs/engine-events.md has the
protocol.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable
from typing import Protocol
from urllib.parse import urlsplit

import httpx
import msgspec

from pointsman.contract.events import MSGPACK_TYPE, EngineEvents, EventsAnswer
from pointsman.contract.feed import FEED_HEAD, FeedHello, FeedReply
from pointsman.contract.tls import tls_for, trusting

TIMEOUT_S = 2.0
"""For one message; a router answers in milliseconds or is away."""

CONNECT_S = 1.0
"""For making a connection that stays open; meanwhile no message is sent."""

AVOID_S = 60.0
"""Seconds for which HTTP is used after a persistent connection failed."""

RENEWED_FOR_S = 5.0
"""Seconds for which a message counts as the replica's heartbeat; a publisher sends at least twice in that time."""

NEVER = float("-inf")

MAX_REPLY_BYTES = 65_536

_record = msgspec.msgpack.Encoder()
_reply = msgspec.msgpack.Decoder(FeedReply)


class TransportError(Exception):
    """A message was not accepted. `expected`: this happens at every start and needs no line in the log."""

    def __init__(self, reason: str, *, expected: bool = False) -> None:
        super().__init__(reason)
        self.expected = expected


class Transport(Protocol):
    """The way to one listener. `str()` of it names the listener in logs."""

    async def send(self, message: EngineEvents) -> EventsAnswer:
        """Deliver a message; calls do not overlap. Raises TransportError unless the listener is known to have it."""

    def on_hang_up(self, call: Callable[[], None]) -> None:
        """Call `call` when the listener hangs up while nothing is sent, where that can be seen."""

    async def close(self) -> None:
        """Close the transport; nothing is sent afterwards."""


class HttpTransport:
    """The way to one router over its admin API. Between messages the router cannot be seen to go."""

    def __init__(self, admin_url: str, token: str, replica_id: str) -> None:
        self._url = f"{admin_url.rstrip('/')}/v1/replicas/{replica_id}/events"
        # Environment proxies are for the outside world, not for a control plane next door.
        self._client = httpx.AsyncClient(
            headers={"content-type": MSGPACK_TYPE} | ({"authorization": f"Bearer {token}"} if token else {}),
            timeout=TIMEOUT_S,
            trust_env=False,
            verify=tls_for(self._url),
        )

    def __str__(self) -> str:
        return self._url

    async def send(self, message: EngineEvents) -> EventsAnswer:
        try:
            response = await self._client.post(self._url, content=msgspec.msgpack.encode(message))
        except httpx.HTTPError as error:
            raise TransportError(f"cannot be reached: {type(error).__name__}") from error
        if not response.is_success:
            # A replica that is not registered yet is expected at every start.
            reason = f"answered {response.status_code}: {response.text[:200]}"
            raise TransportError(reason, expected=response.status_code == 404)
        try:
            return msgspec.json.decode(response.content, type=EventsAnswer)
        except msgspec.MsgspecError as error:
            raise TransportError(f"answered no {EventsAnswer.__name__}: {error}") from error

    def on_hang_up(self, call: Callable[[], None]) -> None:
        pass

    async def close(self) -> None:
        await self._client.aclose()


class _Watched(asyncio.StreamReaderProtocol):
    """A stream protocol that notices the end of the connection although nobody reads."""

    def __init__(self, reader: asyncio.StreamReader, ended: Callable[[], None]) -> None:
        super().__init__(reader)
        self._ended = ended

    def eof_received(self) -> bool | None:
        self._ended()
        return super().eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended()
        super().connection_lost(exc)


class FeedConnection:
    """A connection that stays open: `open`, then `send`; any failure ends it."""

    def __init__(self, host: str, port: int, hung_up: Callable[[], None], *, tls: ssl.SSLContext | None = None) -> None:
        """`hung_up` is called when the other side ends the connection while nothing is sent. `tls`: None for none."""
        self._address = (host, port)
        self._tls = tls
        self._hung_up = hung_up
        self._asking = False
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    @property
    def closed(self) -> bool:
        return self._writer is None

    async def open(self, hello: FeedHello) -> None:
        """Connect and send the hello. Raises TransportError."""
        try:
            async with asyncio.timeout(CONNECT_S):
                await self._connect()
        except OSError as error:
            raise TransportError(f"feed: cannot be reached: {type(error).__name__}") from error
        await self._ask(_record.encode(hello))

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        self._reader = reader = asyncio.StreamReader(limit=MAX_REPLY_BYTES, loop=loop)
        transport, protocol = await loop.create_connection(
            lambda: _Watched(reader, self._ended), *self._address, ssl=self._tls
        )
        self._writer = asyncio.StreamWriter(transport, protocol, reader, loop)

    def _ended(self) -> None:
        # A send in progress notices by what it reads.
        if not self.closed and not self._asking:
            self.close()
            self._hung_up()

    async def send(self, message: EngineEvents) -> EventsAnswer:
        reply = await self._ask(_record.encode(message))
        if reply.answer is None:
            self.close()
            raise TransportError("feed: answered neither yes nor no")
        return reply.answer

    def close(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()

    async def _ask(self, record: bytes) -> FeedReply:
        if self._writer is None or self._reader is None:
            raise TransportError("feed: is closed")
        self._asking = True
        try:
            async with asyncio.timeout(TIMEOUT_S):
                self._writer.write(FEED_HEAD.pack(len(record)) + record)
                await self._writer.drain()
                (length,) = FEED_HEAD.unpack(await self._reader.readexactly(FEED_HEAD.size))
                if length > MAX_REPLY_BYTES:
                    raise TransportError(f"feed: answered {length} bytes")
                reply = _reply.decode(await self._reader.readexactly(length))
        except (OSError, asyncio.IncompleteReadError, msgspec.MsgspecError) as error:
            self.close()
            raise TransportError(f"feed: broke: {type(error).__name__}") from error
        except BaseException:
            # Half a frame may be on its way: nothing more can follow it.
            self.close()
            raise
        finally:
            self._asking = False
        if reply.status:
            if reply.status != 404:
                self.close()
            raise TransportError(f"feed: answered {reply.status}: {reply.error}", expected=reply.status == 404)
        return reply


class RouterTransport:
    """The cheapest way to one router that works."""

    def __init__(self, admin_url: str, token: str, replica_id: str) -> None:
        self._http = HttpTransport(admin_url, token, replica_id)
        self._host = urlsplit(admin_url).hostname or ""
        self._tls = trusting() if admin_url.startswith("https://") else None
        self._hello = FeedHello(replica_id, token)
        self._port = 0
        self._feed: FeedConnection | None = None
        self._avoid_until_s = 0.0
        self._renewed_s = NEVER
        self._hung_up: Callable[[], None] = lambda: None

    def __str__(self) -> str:
        return str(self._http)

    @property
    def fed(self) -> bool:
        """Whether a connection stays open."""
        return self._feed is not None

    @property
    def renews(self) -> bool:
        """Whether messages over the open connection renew the replica's lease, by the router's last answer."""
        is_open = self._feed is not None and not self._feed.closed
        return is_open and time.monotonic() - self._renewed_s < RENEWED_FOR_S

    async def send(self, message: EngineEvents) -> EventsAnswer:
        """Deliver a message. Raises TransportError."""
        try:
            answer = await self._send(message)
        except TransportError:
            self._renewed_s = NEVER
            raise
        self._renewed_s = time.monotonic() if answer.renewed else NEVER
        return answer

    async def _send(self, message: EngineEvents) -> EventsAnswer:
        if self._feed is not None and self._feed.closed:  # by a send that was cancelled
            self._hang_up()
        if self._feed is None and self._port and time.monotonic() >= self._avoid_until_s:
            await self._open()
        if self._feed is None:
            try:
                answer = await self._http.send(message)
            except TransportError as error:
                if not error.expected:
                    # While the router itself is away, a failed connection is no reason to avoid its other port.
                    self._avoid_until_s = 0.0
                raise
        else:
            try:
                answer = await self._feed.send(message)
            except TransportError as error:
                # Perhaps the router has the message: a snapshot follows over HTTP, whose answer names the port again.
                if not error.expected:
                    self._hang_up()
                raise
        self._port = answer.feed_port
        return answer

    def on_hang_up(self, call: Callable[[], None]) -> None:
        self._hung_up = call

    async def close(self) -> None:
        self._hang_up()
        await self._http.close()

    async def _open(self) -> None:
        feed = FeedConnection(self._host, self._port, lambda: self._hung_up(), tls=self._tls)
        try:
            await feed.open(self._hello)
        except TransportError:
            self._avoid_until_s = time.monotonic() + AVOID_S
        else:
            self._feed = feed

    def _hang_up(self) -> None:
        feed, self._feed, self._port = self._feed, None, 0
        if feed is not None:
            feed.close()
