"""Draws without replacement."""

from __future__ import annotations

import itertools
import random
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from pointsman.policies.lib.dice import draw


@given(seed=st.integers(), n=st.integers(1, 50), places=st.integers(1, 60))
def test_draws_distinct_numbers(seed: int, n: int, places: int) -> None:
    """As many as asked for or there are, none twice, all below n."""
    drawn = draw(random.Random(seed), n, places)
    assert len(drawn) == len(set(drawn)) == min(n, places)
    assert all(0 <= number < n for number in drawn)


@given(seed=st.integers(), n=st.integers(1, 50))
def test_a_longer_draw_begins_with_the_shorter(seed: int, n: int) -> None:
    """Asking for more places changes none of the first ones."""
    longest = draw(random.Random(seed), n, n)
    for places in range(1, n):
        assert draw(random.Random(seed), n, places) == longest[:places]


def test_every_order_is_as_likely() -> None:
    """All orders of three out of four come up alike."""
    # 4 * 3 * 2 = 24 orders, 24,000 draws: 1,000 each, standard deviation sqrt(1000 * 23/24) = 31; five of them is 155.
    rng = random.Random(5)
    seen = Counter(tuple(draw(rng, 4, 3)) for _ in range(24_000))
    assert set(seen) == set(itertools.permutations(range(4), 3))
    assert all(abs(count - 1000) < 155 for count in seen.values())
