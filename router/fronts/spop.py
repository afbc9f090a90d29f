"""The SPOP front: an asyncio shell round `SPOPConnection`. Feed bytes, decide, answer, write once.

No task per frame: lookups are decided where their bytes arrive, and all answers of one read leave in one write. A peer
that does not read its answers is not read from either. A programming error in a lookup is logged, tells HAProxy to
leave, and costs the lookups in flight on that connection their answer: HAProxy fails open for them, visibly.
"""

from __future__ import annotations

import asyncio
from functools import lru_cache
from typing import cast

import structlog

from pointsman.haproxy.spop import (
    HelloReceived,
    Notify,
    ProtocolError,
    Scope,
    SPOPConnection,
    State,
    Status,
    encode_set_var,
    encode_set_vars,
    text_setter,
)
from pointsman.policies.decision import Decision
from pointsman.router.counts.requests import DecisionMetrics
from pointsman.router.fronts.deciding import RATES_VARIABLE, TRACE_VARIABLE, Decider

MAX_CACHED_ANSWERS = 4096
"""Answers repeat (first, second, reason): at 64 replicas all pairs fit, and an entry takes 200 bytes."""

MAX_CACHED_RATES = 1024
"""Rests of limits repeat for some requests in a row."""

_set_rates = lru_cache(MAX_CACHED_RATES)(text_setter(Scope.TXN, RATES_VARIABLE))

log = structlog.get_logger(__name__)


@lru_cache(maxsize=MAX_CACHED_ANSWERS)
def encode_actions(decision: Decision) -> bytes:
    """A decision as SPOE actions that set the variables HAProxy's rules read."""
    return encode_set_vars(Scope.TXN, decision.variables())


class SPOPProtocol(asyncio.Protocol):
    """One connection from HAProxy."""

    def __init__(self, decider: Decider, metrics: DecisionMetrics, connections: set[SPOPProtocol]) -> None:
        self._lookup = decider.lookup
        self._trace = decider.trace
        self._limits = decider.limits
        self._metrics = metrics
        self._connections = connections
        self._spop = SPOPConnection()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclasses of asyncio's.
        self._transport = cast(asyncio.Transport, transport)
        self._connections.add(self)
        self._metrics.spop_connections += 1

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self)
        self._metrics.spop_connections -= 1

    def data_received(self, data: bytes) -> None:
        spop = self._spop
        try:
            spop.receive_data(data)
        except ProtocolError as error:
            self._metrics.protocol_errors += 1
            log.warning("SPOP peer disconnected", error=str(error))
        for event in spop.events_received():
            if type(event) is Notify:
                try:
                    actions = self._answer(event)
                except Exception:
                    log.exception("lookup failed, connection closed")
                    spop.send_disconnect(Status.UNKNOWN, "internal error")
                    break
                spop.send_ack(event.stream_id, event.frame_id, actions)
            elif type(event) is HelloReceived:
                log.debug("SPOP connection open", engine=event.engine_id, max_frame_size=event.max_frame_size)
        self._flush()

    def eof_received(self) -> None:
        self._spop.receive_eof()
        self._spop.events_received()
        self._flush()

    def pause_writing(self) -> None:
        assert self._transport is not None
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        assert self._transport is not None
        if not self._transport.is_closing():
            self._transport.resume_reading()

    def leave(self) -> None:
        """Tells HAProxy that this router is going; it takes its next lookups elsewhere or fails open."""
        self._spop.send_disconnect(Status.NORMAL, "router is stopping")
        self._flush()

    def _answer(self, event: Notify) -> bytes:
        """The actions for a NOTIFY. One of ours carries one message, `route` or `route-body`; both ask the same."""
        arguments = event.messages[0].args if event.messages else {}
        decision = self._lookup(arguments)
        actions = encode_actions(decision)
        limits = self._limits
        if limits.active:
            left = limits.left()
            if left:
                actions += _set_rates(left)
        # A request that is held is asked for once more, and traced then.
        if self._trace is not None and not decision.hold_ms:
            traceparent = self._trace(arguments)
            if traceparent:
                # As bytes: it never comes twice, and texts are cached.
                actions += encode_set_var(Scope.TXN, TRACE_VARIABLE, traceparent.encode())
        return actions

    def _flush(self) -> None:
        transport = self._transport
        assert transport is not None
        out = self._spop.data_to_send()
        if out and not transport.is_closing():
            transport.write(out)
        if self._spop.state is State.CLOSED:
            transport.close()
