"""The metrics page of a large fleet, in pieces."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pytest
from other_task import another_task
from prometheus_client import generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from pointsman.contract.registration import Registration
from pointsman.router.counts.histogram import Histogram
from pointsman.router.fleet.replicas import ReplicaRegistry
from pointsman.router.metrics.exposition import PIECE_SAMPLES, Family, by_id, render
from pointsman.router.metrics.families import counter, gauge, histogram

COUNT = 3 * PIECE_SAMPLES + 10


class Families(Collector):
    """A registry of these."""

    def __init__(self, *families: Metric) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def gauges(count: int) -> Iterator[Family]:
    return gauge("load", "In flight.", ((f"r{n}", n) for n in range(count)), "replica")


def observed(count: int) -> Histogram:
    took = Histogram((0.5, 1.0))
    for n in range(count):
        took.observe(n % 3 / 2)
    return took


async def test_a_page_in_pieces_is_what_prometheus_client_writes() -> None:
    """Every sample once and in order, labels and numbers as usual, HELP and TYPE once a family."""
    whole = GaugeMetricFamily("load", "In flight.", labels=("replica",))
    served = CounterMetricFamily("served", "Requests.\nBy \\ class.", labels=("replica", "class"))
    took = HistogramMetricFamily("took", "Seconds.", labels=("replica", "edge"))
    alone = HistogramMetricFamily("alone", "Seconds.")
    alone.add_metric((), buckets=list(observed(7).cumulative()), sum_value=observed(7).total)
    for n in range(COUNT):
        whole.add_metric((f"r{n}",), n)
        served.add_metric((f'a "b" \\ \n {n}', "2xx"), n / 3)
        took.add_metric((f"r{n}", "e"), buckets=list(observed(n).cumulative()), sum_value=observed(n).total)
    pieces = (
        *gauges(COUNT),
        *counter(
            "served",
            "Requests.\nBy \\ class.",
            (((f'a "b" \\ \n {n}', "2xx"), n / 3) for n in range(COUNT)),
            *("replica", "class"),
        ),
        *histogram("took", "Seconds.", (((f"r{n}", "e"), observed(n)) for n in range(COUNT)), "replica", "edge"),
        *histogram("alone", "Seconds.", observed(7)),
        *gauge("empty", "Nothing yet.", (), "replica"),
    )
    assert len(pieces) > 12
    expected = Families(whole, served, took, alone, GaugeMetricFamily("empty", "Nothing yet."))
    assert await render(lambda: iter(pieces)) == generate_latest(expected)


@pytest.mark.parametrize("value", [10**9, 2**53, 1e21, 1e-9, float("inf"), float("-inf"), True])
async def test_numbers_are_read_as_they_were(value: float) -> None:
    """However large, small or infinite."""
    (family,) = text_string_to_metric_families((await render(lambda: gauge("x", "A value.", value))).decode())
    assert [sample.value for sample in family.samples] == [value]


async def test_others_run_between_two_pieces() -> None:
    """At least once a piece, so that no lookup waits for the whole page."""
    async with another_task() as turns:
        await render(lambda: gauges(COUNT))
    assert turns.count >= COUNT // PIECE_SAMPLES


def test_a_piece_holds_what_is_made_in_a_millisecond() -> None:
    """The limit is of samples: a histogram has many a replica."""
    pieces = list(histogram("took", "Seconds.", ((f"r{n}", observed(n)) for n in range(PIECE_SAMPLES)), "replica"))
    samples = len(observed(1).counts) + 2  # buckets, count and sum
    assert max(len(piece.lines) for piece in pieces) < PIECE_SAMPLES + samples
    assert sum(len(piece.lines) for piece in pieces) == samples * PIECE_SAMPLES


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
