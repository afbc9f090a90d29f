"""How long a prefill request is waited for: about what its prompt takes, and never for ever."""

from __future__ import annotations

import pytest

from pointsman.engine.prefill_patience import FLOOR_S, MIN_TOKENS, PRIOR_S_PER_TOKEN, SPARE, PrefillPatience

MOST_S = 30.0


def test_a_leg_is_waited_for_by_its_length() -> None:
    """20,000 tokens a second were seen: 8,000 take 0.4 s, so they are given three times that and a second."""
    times = PrefillPatience(MOST_S)
    assert times.patience_s(8_000) == pytest.approx(FLOOR_S + SPARE * 8_000 * PRIOR_S_PER_TOKEN)
    times.answered(10_000, 0.5)
    assert times.patience_s(8_000) == pytest.approx(1.0 + 3 * 0.4)
    assert times.patience_s(1) == times.patience_s(MIN_TOKENS) < 1.1
    assert times.patience_s(10**9) == MOST_S


def test_slow_prefills_are_given_more_in_the_end() -> None:
    """A prefill replica a hundred times slower than expected is waited for after some were given up."""
    times = PrefillPatience(MOST_S)
    took_s, now_s, given_up = 8_000 * 1e-3, 0.0, 0
    while times.patience_s(8_000) < took_s:
        now_s += times.patience_s(8_000)
        times.given_up(8_000, now_s - times.patience_s(8_000), now_s)
        given_up += 1
    assert given_up <= 12
    times.answered(8_000, took_s)
    assert times.patience_s(8_000) > took_s


def test_prefills_that_are_given_up_together_count_once() -> None:
    """A hundred wait for one hung replica: the next request is not made to wait a hundred times as long."""
    one, hundred = PrefillPatience(MOST_S), PrefillPatience(MOST_S)
    for times in (one, hundred):
        times.answered(8_000, 0.4)
    one.given_up(8_000, 10.0, 12.0)
    for _ in range(100):
        hundred.given_up(8_000, 10.0, 12.0)
    assert hundred.patience_s(8_000) == one.patience_s(8_000) < 4.0
    hundred.given_up(8_000, 12.0, 15.0)
    assert hundred.patience_s(8_000) > one.patience_s(8_000)


def test_a_replica_that_is_quick_again_is_given_less_again() -> None:
    """Ten prefill requests after a hang patience is what it was, within a third."""
    times = PrefillPatience(MOST_S)
    times.answered(8_000, 0.4)
    before = times.patience_s(8_000)
    for round_ in range(3):
        times.given_up(8_000, 10.0 * round_, 10.0 * round_ + times.patience_s(8_000))
    assert times.patience_s(8_000) > 1.3 * before
    for _ in range(10):
        times.answered(8_000, 0.4)
    assert times.patience_s(8_000) == pytest.approx(before, rel=0.33)
