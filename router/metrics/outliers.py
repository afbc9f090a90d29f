"""Metrics of ejections, demotions and the retry budget, read from `OutlierTable` at scrape."""

from __future__ import annotations

from collections.abc import Iterator

from pointsman.router.fleet.replicas import ReplicaRegistry
from pointsman.router.metrics.exposition import Family, by_id
from pointsman.router.metrics.families import FamilyCollector, counter, gauge
from pointsman.router.outliers.table import OutlierTable


class OutlierCollector(FamilyCollector):
    """Reads the table."""

    def __init__(self, outliers: OutlierTable, replicas: ReplicaRegistry) -> None:
        self._outliers = outliers
        self._replicas = replicas

    def collect(self) -> Iterator[Family]:
        outliers = self._outliers
        yield from counter(
            "pointsman_replica_failures",
            "Failed answers by replica and cause: error, cut, dropped, unreachable, timeout, unanswered.",
            sorted(outliers.failures.items()),
            *("replica", "cause"),
        )
        yield from counter(
            "pointsman_ejections",
            "Ejections by replica and cause of the failed answers, failed probes included.",
            sorted(outliers.ejected.items()),
            *("replica", "cause"),
        )
        yield from counter(
            "pointsman_replica_backpressure",
            "Answers 429 and 503 of a replica, and requests sent to another replica because this one dropped them, "
            "refused them or answered 503.",
            sorted(outliers.backpressure.items()),
            "replica",
        )
        yield from gauge(
            "pointsman_replica_failing",
            "1 for a replica whose answers fail, ejected or not, by cause.",
            (
                ((replica.id, replica.model, ejection.cause), 1)
                for replica in by_id(self._replicas)
                if (ejection := outliers.ejection(replica.slot)) is not None
            ),
            *("replica", "model", "cause"),
        )
        yield from gauge(
            "pointsman_replica_demoted_share",
            "Share of the usual requests that a demoted replica keeps, by cause; absent for healthy replicas.",
            (
                ((replica.id, replica.model, demotion.cause), demotion.share)
                for replica in by_id(self._replicas)
                if (demotion := outliers.demoted.get(replica.slot)) is not None
            ),
            *("replica", "model", "cause"),
        )
        yield from counter(
            "pointsman_retries_forbidden",
            "Routing decisions that forbade HAProxy to send the request again, because the retry budget was used up.",
            outliers.budget.refused,
        )
