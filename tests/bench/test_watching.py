"""The table of what looking inside costs."""

from __future__ import annotations

from bench.lookup import Latencies, LookupOptions
from bench.watching import table


def ones(*cpu_us: float, p99: float = 1.0) -> list[Latencies]:
    return [Latencies("any", 1000, {"p50": 0.2, "p99": p99, "p99.9": 2.0}, 0.01, cost) for cost in cpu_us]


def test_costs_are_differences_within_a_round() -> None:
    """A slow round of the machine falls on all ways."""
    shown = table("kv_cost", {"nothing": ones(100.0, 200.0), "records": ones(108.0, 209.0, p99=1.5)}, LookupOptions())
    assert [row[2] for row in shown.rows] == ["+0.0", "+8.5"]
    assert shown.rows[1][-1].startswith("1.50")
