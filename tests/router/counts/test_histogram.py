"""A histogram that counts in place."""

from pointsman.router.counts.histogram import Histogram


def test_buckets_are_cumulative_and_bounds_belong_to_their_bucket() -> None:
    """As the exposition format wants them: everything at or below a bound, the last one all of it."""
    histogram = Histogram((1.0, 5.0))
    for value in (0.5, 1.0, 1.1, 5.0, 99.0):
        histogram.observe(value)
    assert histogram.cumulative() == [("1.0", 2), ("5.0", 4), ("+Inf", 5)]
    assert histogram.total == 106.6


def test_without_an_observation_all_buckets_are_there() -> None:
    """A series that appears with its first value would hide the zero before it."""
    assert Histogram((0.1,)).cumulative() == [("0.1", 0), ("+Inf", 0)]


def test_sums_and_coarser_bounds_lose_no_observation() -> None:
    """Each is counted below the next bound that is left."""
    one, other = Histogram((0.1, 1.0, 5.0)), Histogram((0.1, 1.0, 5.0))
    for value in (0.05, 0.5, 3.0):
        one.observe(value)
    other.observe(9.0)
    one.add(other)
    assert (one.count, one.total) == (4, 12.55)
    coarser = one.coarser((1.0,))
    assert coarser.cumulative() == [("1.0", 2), ("+Inf", 4)]
    assert coarser.total == one.total
