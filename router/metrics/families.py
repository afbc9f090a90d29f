"""The base of all collectors, and one call for each metric a router exports: kind, name, HELP text, values, labels.

Collectors of this package are the one place where names and labels of the router's metrics are declared. They own no
counts: each reads, at scrape, what its noun counts. A family of many series comes in pieces, see
`pointsman.router.metrics.exposition`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from pointsman.router.counts.histogram import Histogram
from pointsman.router.metrics.exposition import in_pieces

LabelValues = str | tuple[str, ...]
"""Values of the labels of one time series; of a single label also without a tuple."""

Values = float | Iterable[tuple[LabelValues, float]]
"""The value of a metric without labels, or of each time series; read while the page is made."""


class FamilyCollector(Collector):
    """Base of the collectors: yields families when asked for them, and none before."""

    def describe(self) -> Iterable[Metric]:
        """Nothing up front: the registry must not collect while the app is being built."""
        return ()


def counter(name: str, text: str, values: Values, *labels: str) -> Iterator[Metric]:
    """A count that only grows; Prometheus appends `_total` to its name."""
    return in_pieces(CounterMetricFamily, name, text, labels, _samples(values))


def gauge(name: str, text: str, values: Values, *labels: str) -> Iterator[Metric]:
    """A value that goes up and down."""
    return in_pieces(GaugeMetricFamily, name, text, labels, _samples(values))


def histogram(
    name: str, text: str, values: Histogram | Iterable[tuple[LabelValues, Histogram]], *labels: str
) -> Iterator[Metric]:
    """Observations counted by upper bound."""
    series = [((), values)] if isinstance(values, Histogram) else values
    samples = ((_tuple(of), {"buckets": one.cumulative(), "sum_value": one.total}) for of, one in series)
    return in_pieces(HistogramMetricFamily, name, text, labels, samples)


def _samples(values: Values) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    if isinstance(values, (int, float)):
        yield (), {"value": values}
    else:
        for of, value in values:
            yield _tuple(of), {"value": value}


def _tuple(of: LabelValues) -> tuple[str, ...]:
    return (of,) if isinstance(of, str) else of


def build_registry(*collectors: Collector) -> CollectorRegistry:
    registry = CollectorRegistry(auto_describe=False)
    for collector in collectors:
        registry.register(collector)
    return registry
