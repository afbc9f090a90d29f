"""The base of all collectors, and one call for each metric a router exports: kind, name, HELP text, values, labels.

Collectors of this package are the one place where names and labels of the router's metrics are declared. They own no
counts: each reads, at scrape, what its noun counts. A family of many series comes in pieces, see
`pointsman.router.metrics.exposition`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from itertools import chain

from pointsman.router.counts.histogram import Histogram
from pointsman.router.metrics.exposition import COUNTER, GAUGE, HISTOGRAM, Collect, Family, Series, in_pieces

LabelValues = str | tuple[str, ...]
"""Values of the labels of one time series; of a single label also without a tuple."""

Values = float | Iterable[tuple[LabelValues, float]]
"""The value of a metric without labels, or of each time series; read while the page is made."""


class FamilyCollector(ABC):
    """Base of the collectors: makes families when asked for them, and none before."""

    @abstractmethod
    def collect(self) -> Iterator[Family]:
        """Return the families, each read from what its noun counts when its turn comes."""


def counter(name: str, text: str, values: Values, *labels: str) -> Iterator[Family]:
    """A count that only grows; Prometheus's `_total` is appended to its name."""
    return in_pieces(Family(f"{name}_total", COUNTER, text, labels), _series(values))


def gauge(name: str, text: str, values: Values, *labels: str) -> Iterator[Family]:
    """A value that goes up and down."""
    return in_pieces(Family(name, GAUGE, text, labels), _series(values))


def histogram(
    name: str, text: str, values: Histogram | Iterable[tuple[LabelValues, Histogram]], *labels: str
) -> Iterator[Family]:
    """Observations counted by upper bound."""
    return in_pieces(Family(name, HISTOGRAM, text, labels), _series(values))


def _series(values: float | Histogram | Iterable[tuple[LabelValues, float | Histogram]]) -> Series:
    if isinstance(values, int | float | Histogram):
        return (((), values),)
    return (((of,) if isinstance(of, str) else of, value) for of, value in values)


def collect_all(*collectors: FamilyCollector) -> Collect:
    """Return what makes the families of all collectors."""

    def collect() -> Iterator[Family]:
        return chain.from_iterable(collector.collect() for collector in collectors)

    return collect
