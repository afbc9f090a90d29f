"""Who carries least."""

from __future__ import annotations

import random

import numpy as np
from candidates import make_candidates
from hypothesis import given
from hypothesis import strategies as st

from pointsman.policies.lib.load import TAKEN, least, table_of


def test_unit_chooses_the_column() -> None:
    """Requests and tokens are different columns of the same table."""
    fleet = make_candidates(a=3, b=1, tokens={"a": 10, "b": 900})
    assert table_of(fleet, "requests").tolist() == [3, 1]
    assert table_of(fleet, "tokens").tolist() == [10, 900]


@given(loads=st.lists(st.integers(0, 6), min_size=1, max_size=20), seed=st.integers(), places=st.integers(1, 20))
def test_least_is_a_prefix_of_a_sort(loads: list[int], seed: int, places: int) -> None:
    """The loads come out as sorting would give them, each with a position that carries it."""
    places = min(places, len(loads))
    found = least(np.array(loads), places, random.Random(seed))
    assert [load for _, load in found] == sorted(loads)[:places]
    assert all(loads[position] == load for position, load in found)
    assert len({position for position, _ in found}) == places


def test_what_is_taken_is_passed_over() -> None:
    """A position marked as taken is not found while there are others."""
    load = np.array([0, 5, 2])
    load[0] = TAKEN
    assert least(load, 2, random.Random(0)) == [(2, 2), (1, 5)]
