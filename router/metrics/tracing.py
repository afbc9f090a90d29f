"""Metrics of tracing, where there is any."""

from __future__ import annotations

from collections.abc import Iterator

from pointsman.router.metrics.exposition import Family
from pointsman.router.metrics.families import FamilyCollector, counter
from pointsman.router.watch.tracing import Tracing


class TracingCollector(FamilyCollector):
    """Reads the counts of spans."""

    def __init__(self, tracing: Tracing) -> None:
        self._tracing = tracing

    def collect(self) -> Iterator[Family]:
        yield from counter(
            "pointsman_spans",
            "Spans of traced requests: sent (the collector took them), lost (the collector did not take them, or more "
            "requests were traced than it takes).",
            [("sent", self._tracing.sent), ("lost", self._tracing.lost)],
            "outcome",
        )
