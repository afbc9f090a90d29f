"""Budgets of the benches, and how a measurement stands against one.

A budget is a bar the design set before anything was measured. Ratios compare two sides of one interleaved run on one
machine; absolute figures depend on the machine and are printed beside it. Nothing here fails a build.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from bench.report import median, spread

ROUTER_TOKEN_RESOLUTION_US = 0.5
"""A CPU cost per token that cannot be told from none: the router's idle work varies by some milliseconds a second, and
a bench streams some thousand tokens in that time."""


@dataclass(frozen=True)
class Budget:
    """An upper bound; `resolution` is what a measurement may exceed it by without meaning anything."""

    limit: float
    unit: str
    """`x`: a ratio. Otherwise the unit of the measured value."""
    resolution: float = 0.0


BUDGETS: dict[str, Budget] = {
    "edge.session.2": Budget(0.6, "x"),
    "edge.session.40": Budget(0.7, "x"),
    "edge.session.200": Budget(0.75, "x"),
    "edge.prefix.2": Budget(0.2, "x"),
    "edge.prefix.40": Budget(0.15, "x"),
    "edge.prefix.200": Budget(0.15, "x"),
    "edge.token": Budget(0.7, "x"),
    "edge.token.router": Budget(0.0, "us", ROUTER_TOKEN_RESOLUTION_US),
    "edge.ray": Budget(0.1, "x"),
    "lookup.p50": Budget(0.3, "ms"),
    "lookup.p99": Budget(2.0, "ms"),
    "lookup.cpu": Budget(60.0, "us"),
    "failover.failed": Budget(0, "requests"),
    "scale.router": Budget(8.0, "% of a core"),
    "scale.p99": Budget(10.0, "ms"),
    "scale.fail_open": Budget(0, "requests"),
    "scale.idle": Budget(5.0, "ms/s"),
}
"""By the name of the figure that is measured; figures without an entry are reported without a verdict."""

RAY_SERVE_LLM_US = 1100.0
"""Edge CPU per request of Ray Serve LLM 2.60 with direct streaming, consistent hashing and its throughput options, 2 KB
bodies, microseconds. Measured apart, on a 2-core machine of the same kind: a scale, not a side of the run."""


def verdict(key: str, measured: float) -> str:
    """`met`, or `short by ...`: how far beyond the bound; empty without a budget or a measurement."""
    budget = BUDGETS.get(key)
    if budget is None or math.isnan(measured):
        return ""
    if measured <= budget.limit + budget.resolution:
        return "met"
    if not budget.limit:
        return f"short by {measured:.3g} {budget.unit}"
    times = measured / budget.limit
    return f"short by {(times - 1) * 100:.0f} %" if times < 3 else f"short by a factor of {times:.0f}"


def bound(key: str) -> str:
    """A budget for people: `<= 0.6x`; empty when there is none."""
    budget = BUDGETS.get(key)
    if budget is None or not budget.limit:
        return "0" if budget else ""
    return f"<= {budget.limit:g}{'' if budget.unit == 'x' else ' '}{budget.unit}"


HELD_TO = ["what", "measured", "budget", "verdict"]


def held_to(what: str, measured: Sequence[float], digits: int, key: str = "") -> list[str]:
    """A row under `HELD_TO`: median and extremes, and how the median stands against the budget of that name."""
    return [what, spread(measured, digits), bound(key), verdict(key, median(measured))]
