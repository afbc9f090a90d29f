"""The end-of-request front: HAProxy's log ring over TCP.

HAProxy connects and sends one JSON line per finished request, framed by octet count (`<length> <line>`, RFC 6587
3.4.1), aborted, retried and refused ones included. The line closes the reservation of its decision and feeds the
per-replica counters. Where the first-token filter is on, a line before it says that the prefill is over. A peer that
breaks the framing is disconnected; HAProxy reconnects and goes on with its next line.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec
import structlog

from pointsman.policies.candidates import NO_SLOT
from pointsman.policies.decision import Reason
from pointsman.router.decide.hold import HoldQueue, Outcome
from pointsman.router.fleet.load import LoadTable
from pointsman.router.fronts.end_line import NO_SERVER, UNDECIDED, UNSET, Line, decode_line
from pointsman.router.kv.state import KVState
from pointsman.router.metrics.requests import RequestMetrics
from pointsman.router.outliers.answers import Verdict, judge
from pointsman.router.outliers.pace import Unit
from pointsman.router.outliers.table import OutlierTable
from pointsman.router.process.clock import Clock

MAX_LINE_BYTES = 8192
"""Four times the ring's `maxlen`: a longer announced length is not one of our lines."""

MAX_LENGTH_DIGITS = 5

CLIENT_LEFT = (b"Lua function 'pm_hold'", b"Lua function 'pm_lookup': yield not allowed")
"""What HAProxy logs, here too, of a client that leaves while its request is held or before it is looked up; its line
follows."""

MAX_WORKERS = 64
"""HAProxy workers whose last line is remembered: the current one and those that earlier reloads left to finish their
streams. Beyond, the one known for the longest is forgotten."""

log = structlog.get_logger(__name__)


class EndOfRequest:
    """Applies lines to state. Plain and synchronous; the protocol below only feeds it."""

    def __init__(
        self,
        *,
        load: LoadTable,
        kv: KVState,
        metrics: RequestMetrics,
        clock: Clock,
        slot_of: Callable[[str], int],
        outliers: OutlierTable,
        holds: HoldQueue | None = None,
    ) -> None:
        """`slot_of` names the slot of a replica id, NO_SLOT for one that is not registered."""
        self._holds = HoldQueue() if holds is None else holds
        self._slot_of = slot_of
        self._outliers = outliers
        self._load = load
        self._kv = kv
        self._clock = clock
        self._metrics = metrics
        self.last_ids: dict[int, str] = {}
        """Id of the request whose end each HAProxy worker reported last, by the worker's pid."""

    def apply(self, raw: bytes) -> None:
        """Takes one line; a malformed one is counted and changes nothing."""
        self._metrics.lines += 1
        try:
            line = decode_line(raw)
        except msgspec.MsgspecError:
            if not raw.startswith(CLIENT_LEFT):
                self._metrics.malformed_lines += 1
            return
        if line.ev == "end":
            now_s = self._clock()
            if self._holds.held:
                self._holds.leave(line.id, now_s, Outcome.GONE)
            self._load.release(line.id)
            if line.ttft.isdecimal():
                self._kv.first_token(line.id, now_s, float(line.ttft))
            redispatched = line.srv != line.first and not line.srv.startswith(NO_SERVER)
            served_by = self._slot_of(line.srv) if redispatched else NO_SLOT
            self._kv.ended(line.id, now_s, served_by=served_by, served=200 <= line.st < 300)
            self._count(line)
            self.last_ids[line.pid] = line.id
            if len(self.last_ids) > MAX_WORKERS:
                del self.last_ids[next(iter(self.last_ids))]
            if not line.srv.startswith(NO_SERVER) and line.routed != UNSET:
                self._prove(line, now_s)
        elif line.ev == "first":
            self._kv.first_token(line.id, self._clock())

    def _prove(self, line: Line, now_s: float) -> None:
        """Hands on what the end of a request says about its replica, and about the one that had it before."""
        outliers = self._outliers
        if line.rc[:1] == "+":
            outliers.budget.count(retried=True)
            if line.first != line.srv:
                outliers.retried(line.id, line.first, now_s)
        else:
            outliers.budget.requests += 1.0
        verdict = judge(line.st, line.ts, answered=line.tr >= 0)
        outliers.ended(line.id, line.srv, verdict, now_s, lasted_s=max(0, line.ta) / 1000)
        if line.ttft.isdecimal() and verdict is Verdict.GOOD:
            slot, decoded_ms = self._slot_of(line.srv), line.ta - int(line.ttft)
            if slot != NO_SLOT and decoded_ms > 0 and not self._kv.reports(slot):
                outliers.pace.observe(slot, decoded_ms, line.bytes, Unit.BYTES)

    def _count(self, line: Line) -> None:
        metrics = self._metrics
        if line.routed != UNSET and line.reason in (UNSET, Reason.FAIL_OPEN):
            if line.placed_alone:
                metrics.fail_open += 1
            else:
                metrics.undecided[UNDECIDED.get(line.ts[:1], "other")] += 1
        if line.srv.startswith(NO_SERVER):
            metrics.refused[line.st] += 1
            return
        served = metrics.served(line.srv)
        served.by_class[f"{line.st // 100}xx" if line.st > 0 else "none"] += 1
        if line.rc.startswith("+"):
            served.redispatched += 1
        if line.tr >= 0:
            served.first_response_s.observe(line.tr / 1000)
        if line.ttft.isdecimal():
            served.first_token_s.observe(int(line.ttft) / 1000)
        if line.ta >= 0:
            served.request_s.observe(line.ta / 1000)


class RingProtocol(asyncio.Protocol):
    """Cuts the stream into lines."""

    def __init__(self, end_of_request: EndOfRequest, metrics: RequestMetrics) -> None:
        self._apply = end_of_request.apply
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
            self._apply(data[space + 1 : end])
            at = end
        self._cut = data[at:]

    def _refuse(self, what: str, found: bytes) -> None:
        self._metrics.malformed_lines += 1
        self._cut = b""
        log.warning("ring peer disconnected", cause=what, found=found)
        assert self._transport is not None
        self._transport.close()
