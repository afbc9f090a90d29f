"""Hit rates: shares of the prompts of the last one to two minutes."""

from pointsman.router.kv.hit_rates import WINDOW_S, HitRate, HitRates


def test_a_rate_is_over_all_prompts_of_its_replica() -> None:
    """Long prompts count more than short ones; what was predicted stands beside what was found."""
    rates = HitRates()
    assert rates.of(3) is None
    rates.saw(3, prompt=900, cached=900, predicted=450)
    rates.saw(3, prompt=100, cached=0, predicted=50)
    rates.saw(4, prompt=100, cached=0, predicted=0)
    assert rates.of(3) == HitRate(0.9, 0.5)
    assert rates.of(4) == HitRate(0.0, 0.0)


def test_prompts_stop_to_count_after_two_windows() -> None:
    """The window before still counts, the one before that does not."""
    rates = HitRates()
    rates.expire(0.0)
    rates.saw(1, 100, 100, 0)
    rates.expire(WINDOW_S / 2)
    rates.expire(WINDOW_S)
    rates.saw(1, 300, 0, 0)
    assert rates.of(1) == HitRate(0.25, 0.0)
    rates.expire(2 * WINDOW_S)
    assert rates.of(1) == HitRate(0.0, 0.0)
    rates.expire(3 * WINDOW_S)
    assert rates.of(1) is None


def test_a_long_pause_ends_both_windows() -> None:
    """A router that was stopped for an hour has no rate of an hour ago."""
    rates = HitRates()
    rates.expire(0.0)
    rates.saw(1, 100, 100, 0)
    rates.expire(3600.0)
    assert rates.of(1) is None


def test_another_replica_on_the_slot_begins_anew() -> None:
    """Slots are given to others."""
    rates = HitRates()
    rates.saw(1, 100, 100, 0)
    rates.clear_slot(1)
    assert rates.of(1) is None
