"""Pins over restarts: those of a second or two before the end are kept, however the end came."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from router_fixture import running_router

from pointsman.router.fleet import sessions as sessions_module
from pointsman.router.fleet.pin_journal import PinJournal
from pointsman.router.fleet.sessions import DEFAULT_TTL_S, REPUBLISH_SHARE, SessionTable
from pointsman.router.watch import pin_keeper
from pointsman.router.watch.pin_keeper import PinKeeper

YEAR_2026_S = 1_767_225_600.0


class Life:
    """One process: its table and keeper, and clocks of its own. The monotonic one begins anywhere."""

    def __init__(self, folder: Path, *, wall_s: float = YEAR_2026_S, clock_s: float = 50.0) -> None:
        self.now_s = clock_s
        self.offset_s = wall_s - clock_s
        self.sessions = SessionTable()
        self.journal = PinJournal(folder / "state.json.pins")
        self.keeper = PinKeeper(
            self.journal, sessions=self.sessions, clock=lambda: self.now_s, wall=lambda: self.now_s + self.offset_s
        )
        self.restored = self.keeper.load()

    def step(self) -> None:
        """What `run` does once in a while."""
        rows, whole = self.keeper._take()
        if rows or whole:
            self.keeper._write(rows, whole)

    def replica(self, session: str) -> str | None:
        return self.sessions.get(session, self.now_s, DEFAULT_TTL_S)


def test_a_killed_router_keeps_what_was_looked_at(tmp_path: Path) -> None:
    """80 pins, of which five move; one comes after the last look and is lost. Ages go on over the restart."""
    life = Life(tmp_path)
    for number in range(80):
        life.sessions.pin(f"s{number}", f"r{number % 8}", life.now_s)
    life.step()
    for number in range(5):
        life.sessions.pin(f"s{number}", "moved", life.now_s + 1)
    life.step()
    life.sessions.pin("late", "r1", life.now_s + 2)
    after = Life(tmp_path, wall_s=YEAR_2026_S + 100.0, clock_s=7.0)
    assert after.restored == 80
    for number in range(80):
        assert after.replica(f"s{number}") == ("moved" if number < 5 else f"r{number % 8}")
    assert after.replica("late") is None
    assert after.sessions.get("s9", after.now_s, 99.0) is None, "it was seen 100 s ago"
    assert after.sessions.get("s9", after.now_s, 101.0) == "r1"


def test_a_router_that_stops_keeps_all_pins(tmp_path: Path) -> None:
    """With the time each was seen last."""
    life = Life(tmp_path)
    life.sessions.pin("s", "r1", life.now_s)
    life.now_s += 30.0
    life.sessions.pin("s", "r1", life.now_s)
    life.keeper.save()
    after = Life(tmp_path, wall_s=YEAR_2026_S + 40.0)
    assert after.sessions.get("s", after.now_s, 11.0) == "r1"


def test_a_pin_in_use_is_renewed_on_disk_now_and_then(tmp_path: Path) -> None:
    """A request of a pinned session writes nothing until a quarter of the time to live has passed."""
    life = Life(tmp_path)
    life.sessions.pin("s", "r1", life.now_s)
    life.step()
    size = life.journal._path.stat().st_size
    for at, writes in ((0.5, False), (1.5, True), (1.6, False)):
        life.sessions.pin("s", "r1", life.now_s + at * REPUBLISH_SHARE * DEFAULT_TTL_S)
        before = life.journal._path.stat().st_size
        life.step()
        assert (life.journal._path.stat().st_size > before) == writes
    assert life.journal._path.stat().st_size < 3 * size


def test_the_later_of_two_pins_counts(tmp_path: Path) -> None:
    """Also where one that expired had moved more often than the one that came after it."""
    life = Life(tmp_path)
    for replica in ("a", "b", "c"):
        life.sessions.pin("s", replica, life.now_s)
        life.step()
    life.sessions.forget("s")
    life.sessions.pin("s", "d", life.now_s + 9000.0)
    life.step()
    assert Life(tmp_path, wall_s=YEAR_2026_S + 9000.0).replica("s") == "d"


def test_the_journal_does_not_grow_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten sessions that move a thousand times take no more than a few tables."""
    monkeypatch.setattr(pin_keeper, "MIN_REWRITE_PINS", 20)
    life = Life(tmp_path)
    sizes = []
    for move in range(1000):
        for number in range(10):
            life.sessions.pin(f"s{number}", f"r{move}", life.now_s + move)
        life.step()
        sizes.append(len(life.journal.load()[0]))
    assert max(sizes) <= 30
    assert {pin.replica for pin in life.journal.load()[0][-10:]} == {"r999"}


def test_more_changes_than_are_noted_have_all_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is lost, and nothing grows."""
    monkeypatch.setattr(sessions_module, "MAX_CHANGED", 10)
    life = Life(tmp_path)
    for number in range(100):
        life.sessions.pin(f"s{number}", "r", life.now_s)
    life.step()
    assert Life(tmp_path).restored == 100


def test_a_damaged_journal_is_restored_in_part_and_written_anew(tmp_path: Path) -> None:
    """What is appended after it would not be read."""
    life = Life(tmp_path)
    life.sessions.pin("first", "r1", life.now_s)
    life.step()
    with life.journal._path.open("ab") as file:
        file.write(b"half a frame")
    life = Life(tmp_path)
    assert life.restored == 1
    life.sessions.pin("second", "r2", life.now_s)
    life.step()
    assert life.journal.load()[1]
    assert Life(tmp_path).restored == 2


def test_a_disk_that_does_not_take_them_gets_them_later(tmp_path: Path) -> None:
    """All of them: nobody remembers which it missed."""
    life = Life(tmp_path)
    life.sessions.pin("s", "r1", life.now_s)
    partial = tmp_path / "state.json.pins"
    partial.mkdir()
    life.step()
    assert life.sessions.save_errors == 1
    partial.rmdir()
    life.step()
    assert Life(tmp_path).restored == 1


def test_where_nobody_is_pinned_no_file_is_made(tmp_path: Path) -> None:
    """Most policies pin nobody."""
    life = Life(tmp_path)
    life.step()
    life.keeper.save()
    assert list(tmp_path.iterdir()) == []


async def test_a_router_with_a_state_file_restores_its_pins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While it serves they are written in the background, and at its end once more."""
    monkeypatch.setattr(pin_keeper, "SAVE_S", 0.01)
    state_file = str(tmp_path / "state.json")
    async with running_router(state_file=state_file) as router:
        router.core.sessions.pin("s", "a", router.clock())
        journal = PinJournal(tmp_path / "state.json.pins")
        async with asyncio.timeout(10):
            while not journal.load()[0]:
                await asyncio.sleep(0.01)
        router.core.sessions.pin("at the end", "b", router.clock())
    async with running_router(state_file=state_file) as router:
        assert [router.core.sessions.get(session, router.clock(), 60.0) for session in ("s", "at the end")] == [
            "a",
            "b",
        ]
