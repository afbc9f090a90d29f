"""The load table's columns: what is reserved, and what HAProxy and engines count beyond that."""

import pytest
from invariants import check

from pointsman.router.fleet.load import LoadTable


@pytest.fixture
def load() -> LoadTable:
    table = LoadTable()
    table.add_slot(0)
    table.add_slot(1)
    return table


def test_a_reservation_counts_until_removed(load: LoadTable) -> None:
    """One request and its tokens, those that are announced later too; then nothing."""
    load.add(1, 500)
    load.add_tokens(1, 70)
    assert (load.in_flight[1], load.in_flight_tokens[1], len(load)) == (1, 570, 1)
    load.remove(1, 570)
    assert (load.in_flight[1], load.in_flight_tokens[1], len(load)) == (0, 0, 0)
    check(load)


def test_work_past_the_edge_counts_once_an_engine_showed_it_twice(load: LoadTable) -> None:
    """Five in the engine, of which one is ours and one HAProxy's: three are somebody else's, until they are gone."""
    load.add(0, 1)
    for now_s in (1.0, 1.5):
        load.observe(0, sessions=2, now_s=now_s)
    load.observe_engine(0, 5)
    assert (load.in_flight[0], load.outside[0]) == (2, 0)
    load.observe_engine(0, 6)
    assert (load.in_flight[0], load.outside[0]) == (5, 3)
    check(load)
    load.observe_engine(0, 2)
    assert (load.in_flight[0], load.outside[0]) == (2, 0)
    check(load)


def test_an_engine_that_counts_less_than_we_do_takes_nothing_away(load: LoadTable) -> None:
    """Requests between HAProxy and the engine's queue are load all the same."""
    load.add(0, 1)
    for _ in range(3):
        load.observe_engine(0, 0)
    assert load.in_flight[0] == 1
    check(load)


def test_foreign_work_counts_once_it_is_seen_twice(load: LoadTable) -> None:
    """Three sessions against one reservation: two are somebody else's, believed at the second look."""
    load.add(0, 1)
    load.observe(0, sessions=3, now_s=1.0)
    assert load.in_flight[0] == 1
    load.observe(0, sessions=3, now_s=1.5)
    assert load.in_flight[0] == 3
    load.observe(0, sessions=1, now_s=2.0)
    assert load.in_flight[0] == 1, "foreign work ends at the first look that does not see it"
    check(load)


def looks(load: LoadTable, *sessions: int, start_s: float = 10.0) -> list[int]:
    """How many reservations each of a row of looks misses, a second after one another."""
    return [load.observe(0, sessions=count, now_s=start_s + at_s) for at_s, count in enumerate(sessions)]


def test_reservations_without_a_session_are_missed_once_they_have_had_none_for_long(load: LoadTable) -> None:
    """The fewest of these looks; those that the caller drops are missed no more."""
    for _ in range(3):
        load.add(0, 5)
    assert looks(load, 0, 1, 0) == [0, 0, 2]
    load.remove(0, 5)
    load.dropped(0, 1)
    assert looks(load, 1, 1, start_s=13.0) == [1, 1]
    load.remove(0, 5)
    load.dropped(0, 1)
    assert looks(load, 0, 0, 0, start_s=15.0) == [0, 0, 1]
    check(load)


def test_a_look_that_misses_none_begins_the_time_anew(load: LoadTable) -> None:
    """Lines that were late have come."""
    load.add(0, 5)
    assert looks(load, 0, 0, 1, 0, 0, 0) == [0, 0, 0, 0, 0, 1]


def test_none_are_missed_while_some_may_be_out_of_sight(load: LoadTable) -> None:
    """As after a reload of HAProxy, until its old worker can be asked; then the time begins anew."""
    load.add(0, 5)
    load.lose_sight(now_s=5.0)
    assert load.is_blind
    assert looks(load, 0, 0, 0) == [0, 0, 0]
    load.regain_sight()
    assert not load.is_blind
    assert looks(load, 0, 0, 0, start_s=13.0) == [0, 0, 1]


def test_columns_grow_and_keep_their_values(load: LoadTable) -> None:
    """Slot 500 appears; slot 0 keeps its load."""
    load.add(0, 7)
    load.add_slot(500)
    load.add(500, 1)
    assert load.in_flight[0] == 1 and load.in_flight_tokens[0] == 7 and load.in_flight[500] == 1
    check(load)


def test_a_cleared_slot_starts_at_zero(load: LoadTable) -> None:
    """The next replica in the slot inherits nothing."""
    load.add(0, 7)
    load.observe(0, 5, now_s=0.0)
    load.observe(0, 5, now_s=0.5)
    load.clear_slot(0)
    assert load.in_flight[0] == 0 and len(load) == 0
    check(load)
