"""The load table: exact by events, honest when events are lost."""

import random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from pointsman.router.fleet.load import SETTLE_S, LoadTable


@pytest.fixture
def load() -> LoadTable:
    table = LoadTable(reservation_ttl_s=60.0)
    table.add_slot(0)
    table.add_slot(1)
    return table


def test_a_reservation_counts_until_released(load: LoadTable) -> None:
    """One request and its tokens, then nothing."""
    load.reserve("a", 1, 500, now_s=0.0)
    assert (load.in_flight[1], load.in_flight_tokens[1]) == (1, 500)
    assert load.release("a") == 1
    assert (load.in_flight[1], load.in_flight_tokens[1]) == (0, 0)
    load.validate()


def test_a_second_release_changes_nothing(load: LoadTable) -> None:
    """Whoever comes second finds nothing to end."""
    load.reserve("a", 0, 1, now_s=0.0)
    load.release("a")
    assert load.release("a") is None
    assert load.in_flight[0] == 0


def test_a_repeated_id_moves_its_reservation(load: LoadTable) -> None:
    """HAProxy asks twice for one request: it is in flight once, where it was placed last."""
    load.reserve("a", 0, 10, now_s=0.0)
    load.reserve("a", 1, 10, now_s=0.0)
    assert load.in_flight[:2].tolist() == [0, 1]
    load.validate()


def test_reservations_expire_by_age(load: LoadTable) -> None:
    """The TTL ends what no event ended, oldest first, and counts it."""
    load.reserve("old", 0, 1, now_s=0.0)
    load.reserve("young", 0, 1, now_s=50.0)
    assert load.expire(now_s=60.0) == 1
    assert "young" in load and "old" not in load
    assert load.expired == 1


def test_work_past_the_edge_counts_once_an_engine_showed_it_twice(load: LoadTable) -> None:
    """Five in the engine, of which one is ours and one HAProxy's: three are somebody else's, until they are gone."""
    load.reserve("a", 0, 1, now_s=0.0)
    for now_s in (1.0, 1.5):
        load.observe(0, sessions=2, now_s=now_s)
    load.observe_engine(0, 5)
    assert (load.in_flight[0], load.outside[0]) == (2, 0)
    load.observe_engine(0, 6)
    assert (load.in_flight[0], load.outside[0]) == (5, 3)
    load.validate()
    load.observe_engine(0, 2)
    assert (load.in_flight[0], load.outside[0]) == (2, 0)
    load.validate()


def test_an_engine_that_counts_less_than_we_do_takes_nothing_away(load: LoadTable) -> None:
    """Requests between HAProxy and the engine's queue are load all the same."""
    load.reserve("a", 0, 1, now_s=0.0)
    for _ in range(3):
        load.observe_engine(0, 0)
    assert load.in_flight[0] == 1
    load.validate()


def test_foreign_work_counts_once_it_is_seen_twice(load: LoadTable) -> None:
    """Three sessions against one reservation: two are somebody else's, believed at the second look."""
    load.reserve("a", 0, 1, now_s=0.0)
    load.observe(0, sessions=3, now_s=1.0)
    assert load.in_flight[0] == 1
    load.observe(0, sessions=3, now_s=1.5)
    assert load.in_flight[0] == 3
    load.observe(0, sessions=1, now_s=2.0)
    assert load.in_flight[0] == 1, "foreign work ends at the first look that does not see it"
    load.validate()


def test_leaked_reservations_go_when_haproxy_has_no_such_session(load: LoadTable) -> None:
    """Two reservations, no session, twice in a row and settled: their lines were lost."""
    load.reserve("a", 0, 5, now_s=0.0)
    load.reserve("b", 0, 5, now_s=0.0)
    load.observe(0, sessions=0, now_s=SETTLE_S + 1)
    load.observe(0, sessions=0, now_s=SETTLE_S + 2)
    assert load.in_flight[0] == 0
    assert load.leaked == 2
    load.validate()


def test_a_fresh_reservation_is_never_taken_for_leaked(load: LoadTable) -> None:
    """It may not have reached its server when HAProxy was asked."""
    load.reserve("a", 0, 5, now_s=10.0)
    load.observe(0, sessions=0, now_s=10.1)
    load.observe(0, sessions=0, now_s=10.2)
    assert load.in_flight[0] == 1


def test_streams_of_an_old_haproxy_worker_are_not_taken_for_leaked(load: LoadTable) -> None:
    """After a reload the sessions of the old worker are invisible; once it is gone, what it left behind leaks."""
    load.reserve("a", 0, 5, now_s=0.0)
    load.reserve("b", 0, 5, now_s=0.0)
    load.lose_sight(now_s=5.0)
    for at_s in (10.0, 11.0, 12.0):
        load.observe(0, sessions=0, now_s=at_s)
    assert load.in_flight[0] == 2 and load.is_blind
    assert load.release("a") == 0
    load.regain_sight()
    for at_s in (13.0, 14.0):
        load.observe(0, sessions=0, now_s=at_s)
    assert load.in_flight[0] == 0 and load.leaked == 1 and not load.is_blind


def test_the_table_is_bounded() -> None:
    """Beyond the limit the oldest reservation goes and is counted."""
    load = LoadTable(max_reservations=2)
    load.add_slot(0)
    for request_id in "abc":
        load.reserve(request_id, 0, 1, now_s=0.0)
    assert len(load) == 2 and "a" not in load
    assert load.expired == 1


def test_columns_grow_and_keep_their_values(load: LoadTable) -> None:
    """Slot 500 appears; slot 0 keeps its load."""
    load.reserve("a", 0, 7, now_s=0.0)
    load.add_slot(500)
    load.reserve("b", 500, 1, now_s=0.0)
    assert load.in_flight[0] == 1 and load.in_flight_tokens[0] == 7 and load.in_flight[500] == 1
    load.validate()


def test_a_cleared_slot_starts_at_zero(load: LoadTable) -> None:
    """A replica that left takes its reservations along; the next one in its slot inherits nothing."""
    load.reserve("a", 0, 7, now_s=0.0)
    load.observe(0, 5, now_s=0.0)
    load.observe(0, 5, now_s=0.5)
    load.clear_slot(0)
    assert load.in_flight[0] == 0 and len(load) == 0
    assert load.release("a") is None
    load.validate()


class LoadMachine(RuleBasedStateMachine):
    """Any order of events keeps columns and reservations in agreement."""

    def __init__(self) -> None:
        super().__init__()
        self.load = LoadTable(reservation_ttl_s=20.0, max_reservations=8)
        self.now_s = 0.0
        self.rng = random.Random(0)
        for slot in range(3):
            self.load.add_slot(slot)

    @rule(request=st.integers(0, 12), slot=st.integers(0, 2), tokens=st.integers(0, 1000))
    def reserve(self, request: int, slot: int, tokens: int) -> None:
        self.load.reserve(str(request), slot, tokens, self.now_s)

    @rule(request=st.integers(0, 12))
    def release(self, request: int) -> None:
        self.load.release(str(request))

    @rule(request=st.integers(0, 12), slot=st.integers(0, 2), tokens=st.integers(0, 1000))
    def reserve_leg(self, request: int, slot: int, tokens: int) -> None:
        self.load.reserve_leg(str(request), slot, tokens, self.now_s)

    @rule(request=st.integers(0, 12))
    def release_leg(self, request: int) -> None:
        self.load.release_leg(str(request))

    @rule(slot=st.integers(0, 2), sessions=st.integers(0, 10))
    def observe(self, slot: int, sessions: int) -> None:
        self.load.observe(slot, sessions, self.now_s)

    @rule(slot=st.integers(0, 2), requests=st.integers(0, 10))
    def look_at_engine(self, slot: int, requests: int) -> None:
        self.load.observe_engine(slot, requests)

    @rule(seconds=st.floats(0, 15))
    def pass_time(self, seconds: float) -> None:
        self.now_s += seconds
        self.load.expire(self.now_s)

    @rule(gone=st.booleans())
    def restart(self, gone: bool) -> None:
        self.load.lose_sight(self.now_s)
        if gone:
            self.load.regain_sight()

    @rule(slot=st.integers(0, 2))
    def clear(self, slot: int) -> None:
        self.load.clear_slot(slot)

    @invariant()
    def agrees(self) -> None:
        self.load.validate()
        assert len(self.load) <= 8


TestLoadMachine = LoadMachine.TestCase
TestLoadMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
