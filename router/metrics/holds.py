"""What is measured of the queue of held requests; read from it at scrape."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from pointsman.router.decide.hold import HoldQueue, Outcome


class HoldCollector(Collector):
    """Turns the queue into metric families."""

    def __init__(self, holds: HoldQueue) -> None:
        self._holds = holds

    def describe(self) -> Iterable[Metric]:
        """Nothing up front: the registry must not collect while the app is being built."""
        return []

    def collect(self) -> Iterator[Metric]:
        holds = self._holds
        yield GaugeMetricFamily("pointsman_held", "Requests held at the edge that wait for free KV.", value=len(holds))
        outcomes = CounterMetricFamily(
            "pointsman_holds",
            "Requests that a policy wanted to hold at the edge, by outcome.",
            labels=("outcome",),
        )
        for outcome in Outcome:
            outcomes.add_metric((outcome,), holds.outcomes[outcome])
        yield outcomes
        waited = HistogramMetricFamily("pointsman_hold_seconds", "Time that requests were held at the edge.")
        waited.add_metric((), buckets=holds.waited_s.cumulative(), sum_value=holds.waited_s.total)
        yield waited
