"""Tracing of one router: which requests are traced, and the loop that sends the spans of those that ended.

`Tracing` is there only where `tracing.endpoint` is set; without it nothing of OpenTelemetry is imported. The path of a
request draws ids (`pointsman.router.decide.trace_context`); everything else happens here, from records of requests
that ended. A collector that is away costs spans, which are counted, and never a request.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING

import structlog

from pointsman.router.core import Core
from pointsman.router.decide.trace_context import Traces
from pointsman.router.journal.followers import Follower
from pointsman.router.process.background import BackgroundTasks
from pointsman.router.process.readiness import Readiness
from pointsman.router.requests.decision_record import DecisionRecord
from pointsman.router.settings import Settings
from pointsman.router.watch.decision_feed import DecisionFeed

if TYPE_CHECKING:
    from pointsman.router.watch.spans import SpanExport

STEP_S = 1.0
"""Seconds between two batches."""

QUEUE_MAX = 4096
"""Traced requests that wait for a batch; beyond, the oldest have no span."""

AT_ONCE = 8
"""Spans made without a break, which takes a few milliseconds at most: each has the terms of a past decision."""

CLOSE_S = 2.0
"""For the last batch, when the router stops."""

NAME = "tracing"
"""Name of the part in `/readyz`."""

log = structlog.get_logger(__name__)


class Tracing:
    """The spans of one router."""

    def __init__(self, traces: Traces, export: SpanExport, *, readiness: Readiness) -> None:
        self.start = traces.start
        self._export = export
        self._readiness = readiness
        self._traced: Follower[DecisionRecord] = Follower(_is_traced, queue_max=QUEUE_MAX)
        self._failing = False
        self.sent = 0
        """Spans that the collector took."""
        self.lost = 0
        """Spans that were not made in time, or that the collector did not take."""

    def __repr__(self) -> str:
        return f"Tracing({self.sent} sent, {self.lost} lost)"

    def start_sending(self, stack: AsyncExitStack, tasks: BackgroundTasks, feed: DecisionFeed) -> None:
        """Send spans of what ends, until the stack unwinds; then the last ones."""
        stack.push_async_callback(self.close, feed)
        tasks.start(stack, "spans", partial(self.run, feed))

    async def run(self, feed: DecisionFeed) -> None:
        """Send spans until cancelled."""
        feed.records.join(self._traced)
        try:
            while True:
                await self.step(feed)
                await asyncio.sleep(STEP_S)
        finally:
            feed.records.leave(self._traced)

    async def step(self, feed: DecisionFeed) -> None:
        """Send the spans of the requests that ended since the last step."""
        missed, records = self._traced.take()
        self.lost += missed
        for number, record in enumerate(records, 1):
            self._export.add(record, feed.view(record, detail=True), feed.since_1970_s)
            if number % AT_ONCE == 0:
                await asyncio.sleep(0)
        if records:
            self._count(*await asyncio.to_thread(self._export.send))

    async def close(self, feed: DecisionFeed) -> None:
        """Send what ended before the router stopped, if that does not take long."""
        feed.records.join(self._traced)
        while feed.step():
            pass
        feed.records.leave(self._traced)
        sending = asyncio.ensure_future(self.step(feed))
        await asyncio.wait((sending,), timeout=CLOSE_S)
        self._export.close()  # which ends an attempt that is under way
        await asyncio.gather(sending, return_exceptions=True)

    def _count(self, spans: int, arrived: bool) -> None:
        if arrived:
            self.sent += spans
        else:
            self.lost += spans
        if arrived == self._failing:
            self._failing = not arrived
            if arrived:
                self._readiness.restored(NAME)
                log.info("the collector takes spans again")
            else:
                self._readiness.degraded(NAME, "the collector does not take spans")
                log.warning("the collector does not take spans, they are lost")


def _is_traced(record: DecisionRecord) -> bool:
    return record.trace is not None


def build_tracing(settings: Settings, core: Core, *, readiness: Readiness) -> Tracing | None:
    """Build the tracing of a router; None for one without a collector."""
    if not settings.tracing.endpoint or core.decisions is None:
        return None
    # The SDK takes a third of a router's start, in time and in memory: without spans it is not there.
    from pointsman.router.watch.spans import SpanExport, otlp_exporter

    # Ids differ from start to start, whatever the seed of decisions.
    traces = Traces(core.decisions, random.Random(), sample=settings.tracing.sample)
    export = SpanExport(
        otlp_exporter(settings.tracing.endpoint), hash_key=settings.decisions.hash_key, edge=settings.shared.edge
    )
    return Tracing(traces, export, readiness=readiness)
