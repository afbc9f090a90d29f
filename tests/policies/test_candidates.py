"""Candidates as columns and as rows."""

from __future__ import annotations

from candidates import UNUSED, make_candidates

from pointsman.policies.candidates import GONE_SLOT, NO_SLOT, Candidate


def test_rows_show_the_columns_of_their_slot() -> None:
    """Iterating gives each candidate its own signals, whatever its slot."""
    fleet = make_candidates(a=3, b=0, slots=[2, 5], tokens={"a": 40, "b": 7})
    assert list(fleet) == [Candidate(2, "a", 3, 40), Candidate(5, "b", 0, 7)]
    assert len(fleet) == 2
    assert fleet.in_flight.tolist()[0] == UNUSED


def test_position_is_the_index_into_slots() -> None:
    """A slot is found among the slots; one of another replica, or of none, is not."""
    fleet = make_candidates(a=0, b=0, c=0, slots=[1, 4, 9])
    assert [fleet.position(slot) for slot in (1, 4, 9)] == [0, 1, 2]
    assert [fleet.position(slot) for slot in (NO_SLOT, GONE_SLOT, 0, 5, 10)] == [None] * 5
    assert 4 in fleet
    assert 5 not in fleet


def test_repr_tells_who_carries_what() -> None:
    """What a debugger shows is the fleet at a glance."""
    assert repr(make_candidates(a=3, b=0)) == "Candidates(a:3, b:0)"
