"""Durations of steps, by arithmetic."""

from __future__ import annotations

import pytest

from pointsman.engine.sim.timing import DENSE_H100, FAST, paced


def test_the_dense_preset_is_dynamos_polynomial() -> None:
    """8,192 tokens: 4.209989e-7 x^2 + 1.518344e-2 x + 16.50142 = 169.14 ms. Half-full decode: 26.31 ms."""
    assert DENSE_H100.prefill_s(8_192) == pytest.approx(0.16914, rel=1e-4)
    assert DENSE_H100.decode_s(0.5) == pytest.approx((5.74 + 54.01 / 2 - 25.74 / 4) / 1000)


def test_no_prefill_costs_nothing() -> None:
    """Not even the base."""
    assert DENSE_H100.prefill_s(0) == 0.0


def test_fast_costs_nothing() -> None:
    """Neither part."""
    assert FAST.prefill_s(8_192) == FAST.decode_s(1.0) == 0.0


def test_a_pace_is_the_same_at_any_load() -> None:
    """5 ms a token on an empty cache and on a full one; prefill is free."""
    pace = paced(0.005)
    assert (pace.decode_s(0.0), pace.decode_s(1.0), pace.prefill_s(9_999)) == (0.005, 0.005, 0.0)
