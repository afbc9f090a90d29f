"""How long a replica takes to prefill, learned from what it reports."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kv_columns import make_columns

from pointsman.router.kv.columns import PRIOR_BASE_MS, PRIOR_PER_TOKEN_MS
from pointsman.router.kv.prefill_times import PrefillTimes

PRIOR_MS_AT_1000 = PRIOR_BASE_MS + 1000 * PRIOR_PER_TOKEN_MS


class TestPrefillTimes:
    """T(x) is what replicas show it to be."""

    @pytest.mark.parametrize(
        ("base", "linear", "square"),
        [
            pytest.param(16.5, 0.01518, 4.2e-7, id="large dense model"),
            pytest.param(5.0, 0.002, 0.0, id="small model"),
            pytest.param(60.0, 0.2, 1e-6, id="slow machine"),
        ],
    )
    def test_learns_a_replica_from_noisy_observations(self, base: float, linear: float, square: float) -> None:
        """A tenth of noise and one stall in twenty; within a tenth of the truth where it was seen."""
        columns, dice = make_columns(), random.Random(1)
        times = PrefillTimes(columns)
        for _ in range(300):
            x = int(dice.lognormvariate(7, 1.2)) + 1
            took = (base + linear * x + square * x * x) * dice.uniform(0.9, 1.1)
            times.observe(1, x, took * 20 if dice.random() < 0.05 else took)
        for x in (200, 1000, 5000, 20_000):
            assert columns.signals.time_ms(1, x) == pytest.approx(base + linear * x + square * x * x, rel=0.15)
        assert columns.signals.time_ms(0, 1000) == pytest.approx(PRIOR_MS_AT_1000)

    def test_one_observation_moves_it_and_does_not_own_it(self) -> None:
        """Between the prior and what was seen."""
        columns = make_columns()
        PrefillTimes(columns).observe(0, 1000, 400.0)
        assert PRIOR_MS_AT_1000 < columns.signals.time_ms(0, 1000) < 400

    def test_follows_a_replica_that_changes(self) -> None:
        """Three times slower from one moment on: a few hundred requests later it is known."""
        columns, dice = make_columns(), random.Random(2)
        times = PrefillTimes(columns)
        for slowness in (1, 3):
            for _ in range(400):
                x = dice.randrange(100, 9000)
                times.observe(0, x, slowness * (20 + 0.02 * x))
        assert columns.signals.time_ms(0, 4000) == pytest.approx(300, rel=0.1)

    @given(st.lists(st.tuples(st.integers(-5, 200_000), st.floats(-10, 1e7)), max_size=80))
    def test_never_falls_whatever_is_reported(self, observed: list[tuple[int, float]]) -> None:
        """More tokens never take less time, and time is never negative."""
        columns = make_columns()
        times = PrefillTimes(columns)
        for tokens, took_ms in observed:
            times.observe(0, tokens, took_ms)
        predicted = [columns.signals.time_ms(0, x) for x in (1, 10, 1000, 10_000, 200_000)]
        assert predicted[0] > 0
        assert predicted == sorted(predicted)
