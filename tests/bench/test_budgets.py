"""Budgets and verdicts."""

from __future__ import annotations

import math

import pytest

from bench.budgets import BUDGETS, Budget, bound, verdict


@pytest.mark.parametrize(
    ("key", "measured", "said"),
    [
        pytest.param("edge.session.2", 0.6, "met", id="on the bound"),
        pytest.param("edge.session.2", 0.9, "short by 50 %", id="beyond"),
        pytest.param("edge.session.2", 6.0, "short by a factor of 10", id="far beyond"),
        pytest.param("edge.token.router", 0.4, "met", id="within what can be told from none"),
        pytest.param("edge.token.router", 3.0, "short by 3 us", id="bound of zero"),
        pytest.param("failover.failed", 0, "met", id="none failed"),
        pytest.param("failover.failed", 2, "short by 2 requests", id="some failed"),
        pytest.param("lookup.p99.9", 1.0, "", id="no budget"),
        pytest.param("lookup.p99", math.nan, "", id="not measured"),
    ],
)
def test_a_verdict_says_how_far(key: str, measured: float, said: str) -> None:
    """`met`, or the share beyond the bound; the amount where the bound is zero."""
    assert verdict(key, measured) == said


@pytest.mark.parametrize(
    ("key", "said"),
    [
        pytest.param("edge.session.40", "<= 0.7x", id="ratio"),
        pytest.param("lookup.p50", "<= 0.3 ms", id="unit"),
        pytest.param("failover.failed", "0", id="zero"),
        pytest.param("no.such", "", id="none"),
    ],
)
def test_a_bound_is_readable(key: str, said: str) -> None:
    """Ratios carry an x, other bounds their unit."""
    assert bound(key) == said


def test_budgets_are_bounds() -> None:
    """None is negative, and only a bound of zero needs room for what cannot be resolved."""
    for budget in BUDGETS.values():
        assert isinstance(budget, Budget) and budget.limit >= 0
        assert not budget.resolution or not budget.limit
