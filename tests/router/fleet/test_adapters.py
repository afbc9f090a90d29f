"""Which adapters are loaded where: told, expected, or made out from decisions."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from invariants import check

from pointsman.router.fleet.adapters import EXPECTED_S, UNKNOWN_SLOTS, AdapterTable


@pytest.fixture
def table() -> AdapterTable:
    made = AdapterTable()
    made.add_slot(0)
    made.add_slot(1)
    return made


def holders(table: AdapterTable, name: str) -> list[int]:
    return sorted(table.signals(name).holders)


def test_what_an_engine_tells_replaces_what_was_known(table: AdapterTable) -> None:
    """And says how much room is left."""
    table.set_loaded(0, ["sql", "chat"], 3, now_s=0.0)
    table.set_loaded(1, ["sql"], 3, now_s=0.0)
    assert holders(table, "sql") == [0, 1]
    assert table.room[:2].tolist() == [1, 2]
    table.set_loaded(0, ["chat"], 0, now_s=1.0)
    assert holders(table, "sql") == [1]
    assert table.room[0] == 2


def test_a_burst_finds_the_adapter_before_it_is_loaded(table: AdapterTable) -> None:
    """Expected where the first of them went, until the engine says so or its time is over."""
    table.set_loaded(0, [], 2, now_s=0.0)
    table.placed(0, "sql", now_s=0.0)
    assert holders(table, "sql") == [0] and table.room[0] == 1
    table.set_loaded(0, ["chat"], 2, now_s=1.0)
    assert holders(table, "sql") == [0], "the message was on its way"
    table.set_loaded(0, ["chat", "sql"], 2, now_s=2.0)
    table.expire(now_s=EXPECTED_S + 1.0)
    assert holders(table, "sql") == [0], "it is loaded"
    table.placed(0, "math", now_s=20.0)
    table.expire(now_s=20.0 + EXPECTED_S)
    assert holders(table, "math") == []


def test_of_an_engine_that_does_not_tell_the_last_used_count(table: AdapterTable) -> None:
    """As many as it holds; the one used longest ago made room."""
    table.observe_running(0, ["a"], 2)
    table.placed(0, "b", now_s=0.0)
    table.placed(0, "a", now_s=1.0)
    table.placed(0, "c", now_s=2.0)
    assert table.loaded(0) == ["a", "c"]
    assert holders(table, "b") == [] and table.room[0] == 0


def test_an_engine_that_says_nothing_holds_a_few(table: AdapterTable) -> None:
    """Until somebody reads how many."""
    assert table.room[1] == UNKNOWN_SLOTS
    for number in range(UNKNOWN_SLOTS + 2):
        table.placed(1, f"a{number}", now_s=0.0)
    assert len(table.loaded(1)) == UNKNOWN_SLOTS


def test_a_replica_that_leaves_holds_nothing(table: AdapterTable) -> None:
    """Its slot is another's next."""
    table.set_loaded(0, ["sql"], 2, now_s=0.0)
    table.clear_slot(0)
    assert holders(table, "sql") == [] and table.room[0] == UNKNOWN_SLOTS


names = st.sampled_from(["a", "b", "c", "d", "e", "f"])


class Machine(RuleBasedStateMachine):
    """Whatever comes, both directions agree."""

    def __init__(self) -> None:
        super().__init__()
        self.table = AdapterTable()
        for slot in range(3):
            self.table.add_slot(slot)
        self.now_s = 0.0

    @rule(slot=st.integers(0, 2), told=st.lists(names, unique=True), slots=st.integers(0, 4))
    def told(self, slot: int, told: list[str], slots: int) -> None:
        self.table.set_loaded(slot, told, slots, self.now_s)

    @rule(slot=st.integers(0, 2), seen=st.lists(names, unique=True), slots=st.integers(0, 4))
    def seen(self, slot: int, seen: list[str], slots: int) -> None:
        self.table.observe_running(slot, seen, slots)

    @rule(slot=st.integers(0, 2), name=names)
    def placed(self, slot: int, name: str) -> None:
        self.table.placed(slot, name, self.now_s)

    @rule(slot=st.integers(0, 40))
    def comes_or_leaves(self, slot: int) -> None:
        self.table.add_slot(slot) if slot > 2 else self.table.clear_slot(slot)

    @rule(seconds=st.floats(0, 12))
    def time_passes(self, seconds: float) -> None:
        self.now_s += seconds
        self.table.expire(self.now_s)

    @invariant()
    def both_directions_agree(self) -> None:
        check(self.table)


TestMachine = Machine.TestCase
