"""Metrics of the admin API, read from its guard at scrape."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from pointsman.router.fronts.api.guard import Check, Guard


class AdminCollector(Collector):
    """Turns the guard's counts into a metric family."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard

    def describe(self) -> Iterable[Metric]:
        """Nothing up front: the registry must not collect while the app is being built."""
        return []

    def collect(self) -> Iterator[Metric]:
        counts = self._guard.refused
        refused = CounterMetricFamily(
            "pointsman_admin_refused",
            "Requests to the admin API and engine feeds refused by a check of the sender: token (wrong or missing), "
            "host (a Host header of another machine), origin (a web page of another origin).",
            labels=("check",),
        )
        for check in Check:
            refused.add_metric((check,), counts[check])
        yield refused
