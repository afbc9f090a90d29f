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
            "Failed answers by replica and cause: error, cut, dropped, unreachable, timeout, unanswered.",
            labels=("replica", "cause"),
        )
        for (replica_id, cause), count in sorted(outliers.failures.items()):
            failures.add_metric((replica_id, cause), count)
        yield failures
        ejections = CounterMetricFamily(
            "pointsman_ejections",
            "Ejections by replica and cause of the failed answers, failed probes included.",
            labels=("replica", "cause"),
        )
        for (replica_id, cause), count in sorted(outliers.ejected.items()):
            ejections.add_metric((replica_id, cause), count)
        yield ejections
        backpressure = CounterMetricFamily(
            "pointsman_replica_backpressure",
            "Answers 429 and 503 of a replica, and requests sent to another replica because this one dropped them, "
            "refused them or answered 503.",
            labels=("replica",),
        )
        for replica_id, count in sorted(outliers.backpressure.items()):
            backpressure.add_metric((replica_id,), count)
        yield backpressure
        failing = GaugeMetricFamily(
            "pointsman_replica_failing",
            "1 for a replica whose answers fail, ejected or not, by cause.",
            labels=("replica", "model", "cause"),
        )
        demoted = GaugeMetricFamily(
            "pointsman_replica_demoted_share",
            "Share of the usual requests that a demoted replica keeps, by cause; absent for healthy replicas.",
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
            "Routing decisions that forbade HAProxy to send the request again, because the retry budget was used up.",
            value=outliers.budget.refused,
        )
