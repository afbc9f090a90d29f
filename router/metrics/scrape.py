"""Metrics of reading endpoints that report nothing themselves, from the scraper's state at scrape."""

from __future__ import annotations

from collections.abc import Iterator

from pointsman.router.fleet.load import LoadTable
from pointsman.router.fleet.replicas import ReplicaRegistry
from pointsman.router.metrics.exposition import Family, by_id
from pointsman.router.metrics.families import FamilyCollector, counter, gauge
from pointsman.router.watch.scrape import Scraper


class ScrapeCollector(FamilyCollector):
    """Reads the results of polling, and the work found there that did not pass this edge."""

    def __init__(self, scraper: Scraper, load: LoadTable, replicas: ReplicaRegistry) -> None:
        self._scraper = scraper
        self._load = load
        self._replicas = replicas

    def collect(self) -> Iterator[Family]:
        yield from counter(
            "pointsman_scrapes",
            "Reads of `/metrics` and `/v1/models` of endpoints, by what was read (metrics, models) and result (ok, "
            "failed).",
            sorted(self._scraper.results.items()),
            *("what", "result"),
        )
        yield from gauge(
            "pointsman_in_flight_outside",
            "Requests that an endpoint reports in its own metrics beyond those of this edge.",
            ((replica.id, int(self._load.outside[replica.slot])) for replica in by_id(self._replicas)),
            "replica",
        )
