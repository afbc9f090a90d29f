"""The end-of-request front: HAProxy's log ring over TCP.

HAProxy connects and sends one JSON line per finished request, framed by octet count (`<length> <line>`, RFC 6587
3.4.1), aborted, retried and refused ones included. Where the first-token filter is on, a line before it says that the
prefill is over. What a line means is in `pointsman.router.requests.end_of_request`; this module only cuts the stream. A
peer that breaks the framing is disconnected; HAProxy reconnects and goes on with its next line.

HAProxy reads nothing from the connection: it overlooks that the peer has closed it, and the next line that it writes is
lost. A reset it notices at once, and keeps what follows for the router that comes next. The kernel resets a connection
that is closed before all of it was read. Over TCP `SO_LINGER` has it do so always, also when a router is killed.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import suppress
from typing import cast

import structlog

from pointsman.router.counts.requests import RequestMetrics
from pointsman.router.process.clock import Clock
from pointsman.router.requests.end_of_request import EndOfRequest

MAX_LINE_BYTES = 8192
"""Four times the ring's `maxlen`: a longer announced length is not one of our lines."""

MAX_LENGTH_DIGITS = 5

LAST_BYTES = 4 << 20
"""Lines that may wait in a connection when the router leaves it: as many as the ring has."""

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
"""`struct linger` of socket(7): on, and 0 s."""

log = structlog.get_logger(__name__)


class RingProtocol(asyncio.Protocol):
    """Cuts the stream into lines."""

    def __init__(
        self, end_of_request: EndOfRequest, metrics: RequestMetrics, connections: set[RingProtocol], clock: Clock
    ) -> None:
        """connections: those that are open, this one included while it is."""
        self._apply = end_of_request.apply
        self._clock = clock
        self._metrics = metrics
        self._connections = connections
        self._cut = b""
        """The begin of a line whose end has not come."""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._connections.add(self)
        self._metrics.ring_connections += 1
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self)
        self._metrics.ring_connections -= 1

    def data_received(self, data: bytes) -> None:
        if self._cut:
            data = self._cut + data
        at = 0
        while True:
            space = data.find(b" ", at, at + MAX_LENGTH_DIGITS + 1)
            if space < 0:
                if len(data) - at > MAX_LENGTH_DIGITS:
                    self._refuse("no length", data[at : at + 32])
                    return
                break
            digits = data[at:space]
            if not digits.isdigit() or int(digits) > MAX_LINE_BYTES:
                self._refuse("bad length", digits)
                return
            end = space + 1 + int(digits)
            if end > len(data):
                break
            self._apply(data[space + 1 : end], self._clock())
            at = end
        self._cut = data[at:]

    def pause(self) -> None:
        """Leave what comes from now on in the connection."""
        transport = self._transport
        assert transport is not None
        if not transport.is_closing():
            transport.pause_reading()

    def leave(self) -> None:
        """Apply what has come since `pause`, and reset the connection: what HAProxy writes now is the next router's.

        Whoever calls this has closed the listener, so that HAProxy does not come back to this router.
        """
        transport = self._transport
        assert transport is not None
        if transport.is_closing():
            return
        own = transport.get_extra_info("socket")
        with socket.fromfd(own.fileno(), own.family, own.type) as sock, suppress(BlockingIOError, ConnectionError):
            self.data_received(sock.recv(LAST_BYTES, socket.MSG_PEEK))
        transport.abort()

    def _refuse(self, what: str, found: bytes) -> None:
        self._metrics.malformed_lines += 1
        self._cut = b""
        log.warning("ring peer disconnected", cause=what, found=found)
        assert self._transport is not None
        self._transport.close()
