"""Metrics of looking at endpoints that tell nothing of themselves, read from the scraper's state at scrape."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from pointsman.router.fleet.load import LoadTable
from pointsman.router.fleet.replicas import ReplicaRegistry
from pointsman.router.metrics.exposition import by_id, in_pieces
from pointsman.router.watch.scrape import Scraper


class ScrapeCollector(Collector):
    """How looks went, and the work they found that did not come through this edge."""

    def __init__(self, scraper: Scraper, load: LoadTable, replicas: ReplicaRegistry) -> None:
        self._scraper = scraper
        self._load = load
        self._replicas = replicas

    def describe(self) -> Iterable[Metric]:
        """Nothing up front: the registry must not collect while the app is being built."""
        return []

    def collect(self) -> Iterator[Metric]:
        looks = CounterMetricFamily(
            "pointsman_scrapes",
            "Reads of `/metrics` and `/v1/models` of endpoints, by what was read (metrics, models) and result (ok, "
            "failed).",
            labels=("what", "result"),
        )
        for (what, result), count in sorted(self._scraper.results.items()):
            looks.add_metric((what, result), count)
        yield looks
        yield from in_pieces(
            GaugeMetricFamily,
            "pointsman_in_flight_outside",
            "Requests that an endpoint reports in its own metrics beyond those of this edge.",
            ("replica",),
            (((r.id,), {"value": int(self._load.outside[r.slot])}) for r in by_id(self._replicas)),
        )
