"""Metrics of ejections, demotions and the retry budget, read from `OutlierTable` at scrape."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from pointsman.router.fleet.replicas import ReplicaRegistry
from pointsman.router.outliers.table import OutlierTable


class OutlierCollector(Collector):
    """Turns the table into metric families."""

    def __init__(self, outliers: OutlierTable, replicas: ReplicaRegistry) -> None:
        self._outliers = outliers
        self._replicas = replicas

    def describe(self) -> Iterable[Metric]:
        """Nothing up front: the registry must not collect while the app is being built."""
        return []

    def collect(self) -> Iterator[Metric]:
        outliers = self._outliers
        failures = CounterMetricFamily(
            "pointsman_replica_failures",
            "Failed answers of each replica by cause: error, cut, dropped, unreachable, timeout, unanswered.",
            labels=("replica", "cause"),
        )
        for (replica_id, cause), count in sorted(outliers.failures.items()):
            failures.add_metric((replica_id, cause), count)
        yield failures
        ejections = CounterMetricFamily(
            "pointsman_ejections",
            "Ejections of each replica by the cause of its failed answers, failed probes included.",
            labels=("replica", "cause"),
        )
        for (replica_id, cause), count in sorted(outliers.ejected.items()):
            ejections.add_metric((replica_id, cause), count)
        yield ejections
        backpressure = CounterMetricFamily(
            "pointsman_replica_backpressure",
            "Answers 429 and 503 of each replica, and requests that went to another replica because this one dropped, "
            "refused or answered them with 503.",
            labels=("replica",),
        )
        for replica_id, count in sorted(outliers.backpressure.items()):
            backpressure.add_metric((replica_id,), count)
        yield backpressure
        failing = GaugeMetricFamily(
            "pointsman_replica_failing",
            "1 for each replica whose answers fail, whether it is ejected or too many others fail for that.",
            labels=("replica", "model", "cause"),
        )
        demoted = GaugeMetricFamily(
            "pointsman_replica_demoted_share",
            "Share of its usual requests that a demoted replica keeps; absent for replicas that are well.",
            labels=("replica", "model", "cause"),
        )
        for replica in sorted(self._replicas, key=lambda r: r.id):
            ejection = outliers.ejection(replica.slot)
            if ejection is not None:
                failing.add_metric((replica.id, replica.model, ejection.cause), 1)
            demotion = outliers.demoted.get(replica.slot)
            if demotion is not None:
                demoted.add_metric((replica.id, replica.model, demotion.cause), demotion.share)
        yield failing
        yield demoted
        yield CounterMetricFamily(
            "pointsman_retries_forbidden",
            "Decisions whose request may not be sent again because the retry budget was used up.",
            value=outliers.budget.refused,
        )
