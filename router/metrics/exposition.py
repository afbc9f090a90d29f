"""`/metrics` of a large fleet, without holding up the event loop.

A page of 1,000 replicas has 10,000 samples and takes some 50 ms, in which no lookup would be answered. So collectors
make families *in pieces*, metrics of one name that follow each other, and `render` lets other tasks run between two of
them. Each sample is true at its own moment; a replica that leaves while the page is made is missing from the pieces
that follow.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from prometheus_client import generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from pointsman.router.fleet.replica import Replica
from pointsman.router.fleet.replicas import ReplicaRegistry

PIECE_SAMPLES = 128
"""Of one piece: making and writing it takes 1 to 2 ms, of which a lookup waits for one at most."""

Family = TypeVar("Family", CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily)

Series = Iterable[tuple[Sequence[str], Mapping[str, Any]]]
"""Label values and the arguments of `add_metric`, one a time series; read while the page is made."""


def in_pieces(kind: type[Family], name: str, text: str, labels: Sequence[str], series: Series) -> Iterator[Family]:
    """A family in pieces; one without samples when there is no series."""
    piece = kind(name, text, labels=labels)
    for values, arguments in series:
        piece.add_metric(values, **arguments)
        if len(piece.samples) >= PIECE_SAMPLES:
            yield piece
            piece = kind(name, text, labels=labels)
    yield piece


def by_id(replicas: ReplicaRegistry) -> Iterator[Replica]:
    """Replicas in the order of their ids, those left out that go before it is their turn."""
    for replica in sorted(replicas, key=lambda replica: replica.id):
        if replicas.get(replica.id) is replica:
            yield replica


async def render(registry: Collector) -> bytes:
    """The page, in Prometheus's text format."""
    page: list[bytes] = []
    before = ""
    for piece in registry.collect():
        text = generate_latest(_One(piece))
        if piece.name == before:
            # HELP and TYPE are said once a family.
            text = text.split(b"\n", 2)[2]
        before = piece.name
        page.append(text)
        await asyncio.sleep(0)
    return b"".join(page)


class _One(Collector):
    """A registry of one piece."""

    def __init__(self, piece: Metric) -> None:
        self._piece = piece

    def collect(self) -> Iterable[Metric]:
        return (self._piece,)
