"""One call makes one family, whatever its kind and labels."""

from __future__ import annotations

from collections.abc import Iterator

from pointsman.router.counts.histogram import Histogram
from pointsman.router.metrics.exposition import Family, render
from pointsman.router.metrics.families import FamilyCollector, collect_all, counter, gauge, histogram


class Everything(FamilyCollector):
    """One family of each kind, with and without labels."""

    def collect(self) -> Iterator[Family]:
        took = Histogram((1.0,))
        took.observe(0.5)
        took.observe(2.0)
        yield from counter("served", "Requests.", 3)
        yield from counter("failed", "Failures.", [(("r1", "cut"), 1), (("r2", "error"), 2)], "replica", "cause")
        yield from gauge("up", "Up.", [("r1", True)], "replica")
        yield from gauge("none", "Nothing yet.", [], "replica")
        yield from histogram("took", "Seconds.", took)
        yield from histogram("waited", "Seconds.", [("r1", took)], "replica")


async def test_families_as_prometheus_reads_them() -> None:
    """A family without series has HELP and TYPE alone."""
    page = (await render(collect_all(Everything()))).decode().splitlines()
    samples = [line for line in page if not line.startswith("#")]
    assert samples == [
        "served_total 3.0",
        'failed_total{cause="cut",replica="r1"} 1.0',
        'failed_total{cause="error",replica="r2"} 2.0',
        'up{replica="r1"} 1.0',
        'took_bucket{le="1.0"} 1.0',
        'took_bucket{le="+Inf"} 2.0',
        "took_count 2.0",
        "took_sum 2.5",
        'waited_bucket{le="1.0",replica="r1"} 1.0',
        'waited_bucket{le="+Inf",replica="r1"} 2.0',
        'waited_count{replica="r1"} 2.0',
        'waited_sum{replica="r1"} 2.5',
    ]
    assert "# TYPE none gauge" in page
