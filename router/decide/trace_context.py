"""Trace contexts of requests (W3C Trace Context): who is the parent of a request's span, and what its replica is told.

`Traces` decides which requests are traced: those whose client traces them, and a share of those without a trace. For
such a request it draws the id of a span, leaves it with the record of the decision, and returns the `traceparent` that
HAProxy sends on, so that the replica's span becomes a child of it. The span itself is made when the request has ended
(`pointsman.router.watch.spans`). `tracestate` is HAProxy's to pass on unchanged.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from typing import NamedTuple

from pointsman.router.requests.decision_log import DecisionLog
from pointsman.router.requests.decision_record import TraceContext

SAMPLED = 0x01
"""Flag of a `traceparent`: the caller records its spans."""

# Versions after 00 may add parts; version ff is none.
_TRACEPARENT = re.compile(rb"(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?")
_FIRST_VERSION = b"00-"
_FIRST_VERSION_BYTES = 55


class Parent(NamedTuple):
    """Caller's span, as a `traceparent` names it."""

    trace_id: int
    span_id: int
    sampled: bool


def read_traceparent(text: bytes) -> Parent | None:
    """Return the caller's span; None for a text that is no `traceparent`, which counts as none was sent."""
    found = _TRACEPARENT.fullmatch(text)
    if found is None or (text.startswith(_FIRST_VERSION) and len(text) != _FIRST_VERSION_BYTES):
        return None
    trace_id, span_id = int(found[1], 16), int(found[2], 16)
    if not trace_id or not span_id:
        return None
    return Parent(trace_id, span_id, bool(int(found[3], 16) & SAMPLED))


class Traces:
    """Decides which requests are traced, and under which ids."""

    def __init__(self, log: DecisionLog, rng: random.Random, *, sample: float) -> None:
        """Make it for one router.

        log: where the decisions are remembered.
        sample: share, 0 to 1, of the requests without a `traceparent` that are traced.
        """
        self._log = log
        self._rng = rng
        self._sample = sample

    def start(self, arguments: Mapping[str, object]) -> str:
        """Begin the span of a request that was decided just now.

        arguments: of its lookup.
        The `traceparent` for its replica; empty for a request that is not traced.
        """
        given = arguments.get("traceparent")
        parent = read_traceparent(given) if isinstance(given, bytes) else None
        if parent is None:
            if self._rng.random() >= self._sample:
                return ""
        elif not parent.sampled:
            return ""
        request_id = arguments.get("id")
        record = self._log.get(request_id.decode("latin-1")) if isinstance(request_id, bytes) else None
        if record is None:
            return ""
        span_id = self._rng.getrandbits(64) or 1
        if parent is None:
            record.trace = TraceContext(self._rng.getrandbits(128) or 1, span_id)
        else:
            record.trace = TraceContext(parent.trace_id, span_id, parent.span_id)
        return record.trace.traceparent
