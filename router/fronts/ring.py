"""The end-of-request front: HAProxy's log ring over TCP.

HAProxy connects and sends one JSON line per finished request, framed by octet count (`<length> <line>`, RFC 6587
3.4.1), aborted, retried and refused ones included. Where the first-token filter is on, a line before it says that the
prefill is over. What a line means is in `pointsman.router.requests.end_of_request`; this module only cuts the stream. A
peer that breaks the framing is disconnected; HAProxy reconnects and goes on with its next line.
"""

from __future__ import annotations

import asyncio

import structlog

from pointsman.router.counts.requests import RequestMetrics
from pointsman.router.process.clock import Clock
from pointsman.router.requests.end_of_request import EndOfRequest

MAX_LINE_BYTES = 8192
"""Four times the ring's `maxlen`: a longer announced length is not one of our lines."""

MAX_LENGTH_DIGITS = 5

log = structlog.get_logger(__name__)


class RingProtocol(asyncio.Protocol):
    """Cuts the stream into lines."""

    def __init__(self, end_of_request: EndOfRequest, metrics: RequestMetrics, clock: Clock) -> None:
        self._apply = end_of_request.apply
        self._clock = clock
        self._metrics = metrics
        self._cut = b""
        """The begin of a line whose end has not come."""
        self._transport: asyncio.BaseTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._metrics.ring_connections += 1

    def connection_lost(self, exc: Exception | None) -> None:
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

    def _refuse(self, what: str, found: bytes) -> None:
        self._metrics.malformed_lines += 1
        self._cut = b""
        log.warning("ring peer disconnected", cause=what, found=found)
        assert self._transport is not None
        self._transport.close()
