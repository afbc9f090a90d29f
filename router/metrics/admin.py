"""Metrics of the admin API, read from its guard at scrape."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from pointsman.router.metrics.exposition import Family
from pointsman.router.metrics.families import FamilyCollector, counter


class AdminCollector(FamilyCollector):
    """Reads the guard's counts."""

    def __init__(self, refused: Callable[[], Mapping[str, int]]) -> None:
        self._refused = refused

    def collect(self) -> Iterator[Family]:
        yield from counter(
            "pointsman_admin_refused",
            "Requests to the admin API and engine feeds refused by a check of the sender: token (wrong or missing), "
            "host (a Host header of another machine), origin (a web page of another origin).",
            self._refused().items(),
            "check",
        )
