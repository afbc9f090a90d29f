"""What one tenant or key may use."""

from datetime import UTC, datetime
from typing import Any

import pytest

from pointsman.router.tenancy.allowance import BURST_S, MAX_RETRY_S, Allowance, Use, period_end_s
from pointsman.router.tenancy.records import Limits

NOON_S = datetime(2026, 11, 30, 12, tzinfo=UTC).timestamp()


def allowance(**limits: Any) -> Allowance:
    return Allowance("tenant/t", Limits(**limits), 0.0)


def refused(one: Allowance, now_s: float = 0.0, *, wall_s: float = NOON_S, share: float = 1.0) -> str:
    verdict = one.refuses(now_s, lambda: wall_s, share)
    return "" if verdict is None else verdict.limit


def test_over_a_long_time_a_tenant_gets_its_tokens_and_one_burst() -> None:
    """Offered five times its limit for five minutes, in requests of 200 tokens."""
    one, got = allowance(tokens_per_minute=60_000), 0
    for step in range(5 * 60 * 25):
        if not refused(one, step / 25):
            one.take(200)
            got += 200
    burst = 60_000 * BURST_S / 60
    assert 300_000 <= got <= 300_000 + burst + 200


def test_what_was_estimated_is_corrected_by_what_was_used() -> None:
    """An estimate that is four times too high costs no more than was used in the end."""
    one, got, under_way = allowance(tokens_per_minute=60_000), 0, []
    for step in range(10 * 60 * 25):
        now_s = step / 25
        if under_way and under_way[0] <= now_s:
            under_way.pop(0)
            one.settle(-600)
        if not refused(one, now_s):
            one.take(800)
            under_way.append(now_s + 1)
            got += 200
    assert got == pytest.approx(600_000, rel=0.02)


def test_a_debt_is_waited_for() -> None:
    """One request may take more than the bucket holds; the next one is told when it may come."""
    one = allowance(tokens_per_minute=60)
    assert not refused(one)
    one.take(600)
    verdict = one.refuses(0.0, lambda: NOON_S, 1.0)
    assert verdict is not None
    assert (verdict.limit, verdict.retry_after_s) == ("tokens_per_minute", 594)
    assert refused(one, 593) and not refused(one, 595)


def test_requests_a_minute_are_counted_one_by_one() -> None:
    """A limit below one burst still lets one in at a time."""
    one = allowance(requests_per_minute=3)
    assert not refused(one)
    one.take(0)
    assert refused(one) == "requests_per_minute"
    assert refused(one, 19.9) and not refused(one, 20.0)


def test_requests_at_one_time_are_those_of_all_edges() -> None:
    """Of an edge that is gone none."""
    one = allowance(concurrent_requests=3)
    one.take(1)
    one.hear("b", Use(5, 50, 2), from_zero=True)
    assert refused(one) == "concurrent_requests"
    one.leave()
    assert not refused(one)
    one.take(1)
    one.lose("b")
    assert not refused(one)


@pytest.mark.parametrize(("limit", "ends"), [("tokens_per_day", (2026, 12, 1)), ("tokens_per_month", (2026, 12, 1))])
def test_a_budget_is_full_until_its_period_ends(limit: str, ends: tuple[int, int, int]) -> None:
    """Midnight UTC, of the day or of the month."""
    one = allowance(**{limit: 100})
    assert not refused(one)
    one.take(100)
    verdict = one.refuses(0.0, lambda: NOON_S, 1.0)
    assert verdict is not None and verdict.limit == limit
    assert verdict.retry_after_s == 12 * 3600
    assert not refused(one, wall_s=datetime(*ends, tzinfo=UTC).timestamp())


def test_periods_end_at_midnight_and_with_the_month() -> None:
    """In December too."""
    christmas_s = datetime(2026, 12, 24, 18, tzinfo=UTC).timestamp()
    assert period_end_s(christmas_s, monthly=False) == datetime(2026, 12, 25, tzinfo=UTC).timestamp()
    assert period_end_s(christmas_s, monthly=True) == datetime(2027, 1, 1, tzinfo=UTC).timestamp()


def test_use_elsewhere_counts_from_when_it_is_known_where_it_began() -> None:
    """An edge that is met has used something before, of which this one was not told when; what it says twice counts
    once."""
    one = allowance(tokens_per_minute=6000)
    one.hear("b", Use(10, 5000, 0), from_zero=False)
    assert not refused(one)
    for _ in range(2):
        one.hear("b", Use(12, 5700, 0), from_zero=False)
    assert refused(one) == "tokens_per_minute"
    other = allowance(tokens_per_minute=6000)
    other.hear("c", Use(1, 700, 0), from_zero=True)
    assert refused(other) == "tokens_per_minute"


def test_an_edge_that_cannot_hear_the_others_goes_by_its_part() -> None:
    """Two such edges together keep the limit."""
    one, got = allowance(tokens_per_minute=60_000), 0
    for step in range(5 * 60 * 25):
        if not refused(one, step / 25, share=0.5):
            one.take(100)
            got += 100
    assert got == pytest.approx(150_000, rel=0.05)


def test_a_limit_of_zero_lets_nothing_in() -> None:
    """For as long as anybody asks."""
    for limit in ("requests_per_minute", "tokens_per_minute", "concurrent_requests", "tokens_per_day"):
        one = allowance(**{limit: 0})
        assert refused(one) == limit
        assert refused(one, 1e6) == limit
    verdict = allowance(requests_per_minute=0).refuses(0.0, lambda: NOON_S, 1.0)
    assert verdict is not None and verdict.retry_after_s == MAX_RETRY_S


def test_another_limit_keeps_the_debt() -> None:
    """Whoever raises a limit does not give a full bucket away; what is under way stays under way."""
    one = allowance(tokens_per_minute=600, tokens_per_day=100)
    one.take(100)
    one.rebind(Limits(tokens_per_minute=6000, tokens_per_day=1000, concurrent_requests=1))
    assert refused(one, 0.0) == "tokens_per_minute"
    assert refused(one, 1.0) == "concurrent_requests"
    one.leave()
    assert not refused(one, 1.0)
    one.rebind(Limits())
    assert not refused(one, 1.0) and one.budgets == ()


def test_what_is_left_is_told_with_when_all_of_it_is_back() -> None:
    """Nothing is left of a debt; a limit of zero has nothing to come back."""
    one = allowance(requests_per_minute=60, tokens_per_minute=6000)
    one.take(350)
    assert one.requests is not None and one.tokens is not None
    assert [tuple(map(int, bucket.left(1.0))) for bucket in (one.requests, one.tokens)] == [(60, 5, 1), (6000, 250, 4)]
    assert tuple(map(int, one.tokens.left(0.5))) == (6000, 250, 7)
    one.take(600)
    assert tuple(map(int, one.tokens.left(1.0))) == (6000, 0, 10)
    nothing = allowance(tokens_per_minute=0)
    assert nothing.tokens is not None and nothing.tokens.left(1.0) == (0, 0.0, 0.0)


def test_buckets_that_are_seldom_refilled_let_no_more_in() -> None:
    """A thousand requests a second, of a tenant that rests now and then."""
    one, got = allowance(requests_per_minute=6000), 0
    for step in range(60_000):
        if step % 10_000 < 8000 and not refused(one, step / 1000):
            one.take(0)
            got += 1
    # 100 a second in 48 s of asking, and a burst after each rest.
    assert 4800 + 6 * 200 <= got <= 6000 + 6000 * BURST_S / 60 + 6
