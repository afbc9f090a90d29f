"""Numbers from records, by hand."""

from __future__ import annotations

import pytest

from pointsman.simulator.measure import Counts, Served, Summary, average, paired, spread, summarise


def make_served(
    ttft_s: float = 0.1, *, itl_s: float = 0.02, turn: int = 0, cached: int = 50, at_s: float = 0.0
) -> Served:
    """100 prompt tokens, 11 answered."""
    first_s = at_s + ttft_s
    return Served(turn, at_s, first_s, first_s + 10 * itl_s, 100, 11, cached, 0)


def make_summary(ttft_ms: list[float], **counts: int) -> Summary:
    return summarise([make_served(ms / 1000) for ms in ttft_ms], [1], Counts(**counts))  # type: ignore[arg-type]


def test_percentiles_are_by_nearest_rank() -> None:
    """Of 1..100, the value behind 50, 95 and 99 of them."""
    found = spread([float(value) for value in range(1, 101)])
    assert (found.mean, found.p50, found.p95, found.p99) == (50.5, 51.0, 96.0, 100.0)


def test_nothing_has_no_spread() -> None:
    """A trace without second turns has no later TTFT."""
    assert spread([]).p99 == 0.0


def test_goodput_counts_requests_that_keep_both_limits() -> None:
    """One is late with its first token, one with the others; one of three is good, in the 2.4 s the run takes."""
    summary = summarise([make_served(0.5), make_served(2.2), make_served(0.5, itl_s=0.03)], [30, 10], Counts())
    assert summary.within_slo == pytest.approx(1 / 3)
    assert summary.goodput_per_s == pytest.approx(1 / 2.4)


def test_hits_imbalance_and_later_turns() -> None:
    """50 + 90 of 200 tokens were cached; 30 against a mean of 20 is 1.5; the second turn took 100 ms."""
    summary = summarise([make_served(0.3), make_served(0.1, turn=1, cached=90)], [30, 10], Counts())
    assert summary.hit_rate == pytest.approx(0.7)
    assert summary.imbalance == pytest.approx(1.5)
    assert summary.later_ttft_ms.mean == pytest.approx(100.0)
    assert summary.tpot_ms.mean == pytest.approx(20.0)


def test_a_single_token_has_no_interval() -> None:
    """Its interval is 0 and does not count towards TPOT."""
    record = Served(0, 0.0, 1.0, 1.0, 10, 1, 0, 0)
    assert record.itl_s == 0.0
    assert summarise([record], [10], Counts()).tpot_ms.mean == 0.0


def test_seeds_are_averaged_and_counts_are_summed() -> None:
    """Means of means; reasons add up."""
    one, other = make_summary([100.0], preemptions=1), make_summary([300.0], preemptions=2)
    both = average([one, other])
    assert both.ttft_ms.mean == pytest.approx(200.0)
    assert (both.requests, both.preemptions) == (2, 3)


def test_differences_are_paired_by_seed() -> None:
    """-50 % on seed 1 and +10 % on seed 2: -20 % on average, lower on one of two, error 0.6 / 2 = 30 %."""
    ours = {1: make_summary([100.0]), 2: make_summary([110.0]), 3: make_summary([1.0])}
    theirs = {1: make_summary([200.0]), 2: make_summary([100.0])}
    found = paired(ours, theirs)
    assert found.mean_ttft == pytest.approx(-0.2)
    assert found.mean_ttft_error == pytest.approx(0.3)
    assert (found.lower_mean, found.seeds) == (1, 2)
