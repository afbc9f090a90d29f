"""Decoding speed beside the others of a model."""

import pytest

from pointsman.router.outliers.pace import MIN_AMOUNT, Pace, Unit


def measured(gaps_ms: dict[int, float], unit: Unit = Unit.TOKENS) -> Pace:
    pace = Pace(window_s=30.0)
    for slot, gap_ms in gaps_ms.items():
        pace.observe(slot, 2 * MIN_AMOUNT[unit] * gap_ms, 2 * MIN_AMOUNT[unit], unit)
    return pace


def test_a_ratio_is_of_the_median() -> None:
    """Gaps of 10, 20 and 80 ms: half, one and four times the median."""
    assert measured({0: 10, 1: 20, 2: 80}).ratios([0, 1, 2]) == {0: 0.5, 1: 1.0, 2: 4.0}


def test_of_two_nobody_is_the_odd_one() -> None:
    """Nothing is said without a third."""
    assert measured({0: 10, 1: 200}).ratios([0, 1]) == {}


def test_tokens_and_bytes_do_not_compare() -> None:
    """Three replicas measured by tokens and one by bytes: of the one nothing is said."""
    pace = measured({0: 10, 1: 10, 2: 10})
    pace.observe(3, 1e9, 1e6, Unit.BYTES)
    assert pace.ratios([0, 1, 2, 3]).keys() == {0, 1, 2}


def test_a_few_tokens_prove_nothing() -> None:
    """Below the least amount a replica is not judged."""
    pace = measured({0: 10, 1: 10, 2: 10})
    pace.observe(3, 1e6, MIN_AMOUNT[Unit.TOKENS] - 1, Unit.TOKENS)
    assert 3 not in pace.ratios([0, 1, 2, 3])


def test_long_answers_count_by_their_length() -> None:
    """A ratio of sums: 900 tokens at 10 ms and 100 at 100 ms are 19 ms a token."""
    pace = measured({0: 19, 1: 19})
    pace.observe(2, 9000, 900, Unit.TOKENS)
    pace.observe(2, 10_000, 100, Unit.TOKENS)
    assert pace.ratios([0, 1, 2])[2] == pytest.approx(1.0)


def test_old_answers_are_forgotten() -> None:
    """After ten windows nothing is left of them."""
    pace = measured({0: 10, 1: 10, 2: 100})
    pace.step(0.0)
    pace.step(300.0)
    assert pace.ratios([0, 1, 2]) == {}
    assert not pace._sums


def test_a_cleared_slot_is_unknown() -> None:
    """Another replica takes it."""
    pace = measured({0: 10, 1: 10, 2: 100, 3: 10})
    pace.clear_slot(2)
    assert 2 not in pace.ratios([0, 1, 2, 3])
