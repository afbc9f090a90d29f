"""What the tables say of lookups."""

from __future__ import annotations

import os

from bench.lookup import (
    DIRECT,
    EDGE_ONLY,
    SHARES,
    WITH_LOOKUP,
    Latencies,
    LookupOptions,
    lookup_tables,
    on_cores,
    split_cores,
    summarise,
)


def make_latencies(ms: float, *, cpu_us: float = 0.0) -> Latencies:
    return Latencies("any", 1000, {"p50": ms, "p99": 2 * ms, "p99.9": 3 * ms}, 0.01, cpu_us)


def test_latencies_become_quantiles_in_milliseconds() -> None:
    """Of 1 to 1,000 ms; lateness of the generator beside them."""
    seconds = [n / 1000 for n in range(1, 1001)]
    summary = summarise("router", seconds, [0.001] * 100, 42.0)
    assert {name: round(ms) for name, ms in summary.ms.items()} == {"p50": 500, "p99": 990, "p99.9": 999}
    assert (summary.count, round(summary.sent_late_p99_ms, 6), summary.cpu_us) == (1000, 1.0, 42.0)


def test_tables_hold_budgets_and_differences() -> None:
    """Each figure beside its bound; what is added is taken round by round."""
    ways = {
        DIRECT: [make_latencies(0.1), make_latencies(0.2)],
        EDGE_ONLY: [make_latencies(0.3), make_latencies(0.4)],
        WITH_LOOKUP: [make_latencies(0.5), make_latencies(0.7)],
    }
    alone, through = lookup_tables(
        {
            ("kv_cost", ""): [make_latencies(0.25, cpu_us=90.0)],
            ("kv_cost", ", compiled"): [make_latencies(0.2, cpu_us=50.0)],
        },
        ways,
        LookupOptions(),
    )
    rows = {row[0]: row[1:] for row in alone.rows}
    assert rows["kv_cost, 64 prefix keys: p50, ms"] == ["0.250", "<= 0.3 ms", "met"]
    assert rows["kv_cost, 64 prefix keys: router CPU per lookup, us"] == ["90.0", "<= 60 us", "short by 50 %"]
    assert rows["kv_cost, 64 prefix keys, compiled: router CPU per lookup, us"] == ["50.0", "<= 60 us", "met"]
    added = {row[0]: row[1] for row in through.rows}
    assert added["added by the edge, lookup included"] == "0.45 (0.40-0.50)"
    assert added["of which the lookup, as HAProxy sees it"] == "0.25 (0.20-0.30)"
    assert through.columns == ["way", *SHARES]


async def test_work_runs_on_the_cores_it_was_given() -> None:
    """The router has a core of its own where there are two; the thread's own set comes back afterwards."""
    router, load = split_cores()
    assert len(router) == 1 and load and (load.isdisjoint(router) or len(os.sched_getaffinity(0)) == 1)
    assert await on_cores(load, lambda: os.sched_getaffinity(0)) == load
