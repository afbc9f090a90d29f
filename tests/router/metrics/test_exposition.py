"""The metrics page of a large fleet, in pieces."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from other_task import another_task
from prometheus_client import generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from pointsman.contract.registration import Registration
from pointsman.router.fleet.replicas import ReplicaRegistry
from pointsman.router.metrics.exposition import PIECE_SAMPLES, by_id, in_pieces, render

COUNT = 3 * PIECE_SAMPLES + 10


class Families(Collector):
    """A registry of these."""

    def __init__(self, *families: Metric) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def gauges(count: int) -> Iterator[Metric]:
    yield from in_pieces(
        GaugeMetricFamily, "load", "In flight.", ("replica",), (((f"r{n}",), {"value": n}) for n in range(count))
    )


async def test_a_page_in_pieces_is_the_page_as_a_whole() -> None:
    """Every sample once and in order, HELP and TYPE once a family, whatever its kind and number of pieces."""
    whole = GaugeMetricFamily("load", "In flight.", labels=("replica",))
    counter = CounterMetricFamily("served", "Requests.", labels=("replica",))
    histogram = HistogramMetricFamily("took", "Seconds.", labels=("replica",))
    for n in range(COUNT):
        whole.add_metric((f"r{n}",), n)
        counter.add_metric((f"r{n}",), n)
        histogram.add_metric((f"r{n}",), buckets=[("1.0", n), ("+Inf", n)], sum_value=n)
    series = [((f"r{n}",), {"value": n}) for n in range(COUNT)]
    buckets = [((f"r{n}",), {"buckets": [("1.0", n), ("+Inf", n)], "sum_value": n}) for n in range(COUNT)]
    pieces = (
        *gauges(COUNT),
        *in_pieces(CounterMetricFamily, "served", "Requests.", ("replica",), series),
        *in_pieces(HistogramMetricFamily, "took", "Seconds.", ("replica",), buckets),
        *in_pieces(GaugeMetricFamily, "empty", "Nothing yet.", ("replica",), ()),
    )
    assert len(pieces) > 12
    expected = generate_latest(Families(whole, counter, histogram, GaugeMetricFamily("empty", "Nothing yet.")))
    assert await render(Families(*pieces)) == expected


async def test_others_run_between_two_pieces() -> None:
    """At least once a piece, so that no lookup waits for the whole page."""
    async with another_task() as turns:
        await render(Families(*gauges(COUNT)))
    assert turns.count >= COUNT // PIECE_SAMPLES


def test_a_piece_holds_what_is_made_in_a_millisecond() -> None:
    """The limit is of samples: a histogram has many a replica."""
    buckets = [(f"{n}.0", n) for n in range(30)] + [("+Inf", 30)]
    series = [((f"r{n}",), {"buckets": buckets, "sum_value": 1}) for n in range(100)]
    pieces = list(in_pieces(HistogramMetricFamily, "took", "Seconds.", ("replica",), series))
    assert max(len(piece.samples) for piece in pieces) < PIECE_SAMPLES + len(buckets) + 2


def test_a_replica_that_leaves_before_its_turn_is_left_out() -> None:
    """Its slot may be another's by then."""
    replicas = ReplicaRegistry()
    for n, name in enumerate("cab"):
        replicas.put(name, Registration(url=f"http://10.0.0.{n}:1"), (f"10.0.0.{n}", 1), 0.0)
    turns = by_id(replicas)
    assert next(turns).id == "a"
    replicas.remove("b")
    replicas.put("d", Registration(url="http://10.0.0.9:1"), ("10.0.0.9", 1), 0.0)
    assert [replica.id for replica in turns] == ["c"]
