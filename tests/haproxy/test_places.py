"""The table by which a large fleet's servers are found: what is written to HAProxy, and when it holds."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from pointsman.haproxy import places
from pointsman.haproxy.places import Places
from pointsman.haproxy.runtime_api import RuntimeAPI


class Table(RuntimeAPI):
    """The stick table and the variable of one HAProxy."""

    def __init__(self, *, known: bool = True) -> None:
        super().__init__("/model")
        self.known = known
        self.entries: dict[str, int] = {}
        self.in_use = 0
        self.calls = 0

    async def answers(self, commands: Sequence[str]) -> list[str]:
        return [self._answer(command.split()) for command in commands]

    def _answer(self, words: list[str]) -> str:
        self.calls += 1
        match words:
            case [_, "table", *_] if not self.known:
                return "[3]: No such table"
            case ["set", "table", "pm-places", "key", name, "data.server_id", number]:
                self.entries[name] = int(number)
            case ["clear", "table", "pm-places", "key", name]:
                del self.entries[name]
            case ["set", "var", "proc.pm.places", value]:
                assert not (value == "int(1)" and not self.entries), "nothing is in the table yet"
                self.in_use = int(value == "int(1)")
            case _:
                assert words == ["experimental-mode", "on"]
        return ""


@pytest.fixture(autouse=True)
def a_large_fleet_has_three(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "PLACES_FROM", 3)


async def test_a_small_fleet_has_no_table() -> None:
    """It costs nothing there, and no command."""
    table = Table()
    await Places(table).follow(1, {"a": 7, "b": 8})
    assert (table.calls, table.in_use) == (0, 0)


async def test_a_large_fleet_is_in_the_table_and_that_is_kept() -> None:
    """What comes is added, what goes is cleared, another id is set; a fleet that rests costs no command."""
    table = Table()
    kept = Places(table)
    await kept.follow(1, {"a": 7, "b": 8, "c": 9})
    assert (table.entries, table.in_use) == ({"a": 7, "b": 8, "c": 9}, 1)
    calls = table.calls
    await kept.follow(1, {"a": 7, "b": 8, "c": 9})
    assert table.calls == calls
    await kept.follow(1, {"a": 7, "c": 10, "d": 11})
    assert table.entries == {"a": 7, "c": 10, "d": 11}


async def test_a_fleet_that_shrinks_is_walked_through_again() -> None:
    """The table no longer holds before its entries go."""
    table = Table()
    kept = Places(table)
    await kept.follow(1, {"a": 7, "b": 8, "c": 9})
    await kept.follow(1, {"a": 7})
    assert (table.entries, table.in_use) == ({}, 0)


async def test_another_process_has_an_empty_table() -> None:
    """After a reload everything is written again."""
    table = Table()
    kept = Places(table)
    await kept.follow(1, {"a": 7, "b": 8, "c": 9})
    table.entries, table.in_use = {}, 0
    await kept.follow(2, {"a": 7, "b": 8, "c": 9})
    assert (table.entries, table.in_use) == ({"a": 7, "b": 8, "c": 9}, 1)


async def test_a_configuration_without_the_table_is_left_as_it_is() -> None:
    """One that was rendered before: nothing is asked of it again until it is another process."""
    table = Table(known=False)
    kept = Places(table)
    await kept.follow(1, {"a": 7, "b": 8, "c": 9})
    calls = table.calls
    await kept.follow(1, {"a": 7, "b": 8, "d": 9})
    assert (table.calls, table.in_use) == (calls, 0)
    table.known = True
    await kept.follow(2, {"a": 7, "b": 8, "d": 9})
    assert table.in_use == 1
