"""Metrics of the access log, read from its writer at scrape."""

from __future__ import annotations

from collections.abc import Iterator

from pointsman.router.metrics.exposition import Family
from pointsman.router.metrics.families import FamilyCollector, counter
from pointsman.router.watch.access_log import AccessLog


class AccessLogCollector(FamilyCollector):
    """Reads the counts of lines. The family has no series where no access log is written."""

    def __init__(self, access_log: AccessLog | None) -> None:
        """`access_log` is None where none is written."""
        self._access_log = access_log

    def collect(self) -> Iterator[Family]:
        written = self._access_log
        yield from counter(
            "pointsman_access_log_lines",
            "Lines of the access log, one for each request that ended: written, dropped (the disk did not take the "
            "line, or was slower than the traffic).",
            [] if written is None else [("written", written.lines), ("dropped", written.dropped)],
            "outcome",
        )
