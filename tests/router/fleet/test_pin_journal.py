"""The journal of pins: whatever happens to its end, what was written before is read."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from pointsman.router.fleet import pin_journal
from pointsman.router.fleet.pin_journal import FRAME_PINS, PinJournal, SavedPin


def pins(first: int, last: int, replica: str = "a") -> list[SavedPin]:
    return [SavedPin(f"session {number}", replica, 1, 1_700_000_000_000 + number) for number in range(first, last)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.json.pins"


def test_what_is_appended_is_read_in_order(path: Path) -> None:
    """From no file on, over several frames, and after it was written anew. Nobody else reads it."""
    journal = PinJournal(path)
    assert journal.load() == ([], True)
    journal.append(pins(0, 3))
    journal.append(pins(1, FRAME_PINS + 9, "b"))
    assert journal.load() == (pins(0, 3) + pins(1, FRAME_PINS + 9, "b"), True)
    journal.rewrite(pins(7, 9))
    journal.append(pins(9, 10))
    assert journal.load() == (pins(7, 10), True)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_cut_file_yields_what_precedes_the_cut(path: Path) -> None:
    """A process that was killed wrote half a frame: at every length, whole frames count and nothing is invented."""
    journal = PinJournal(path)
    journal.append(pins(0, 2))
    first = path.stat().st_size
    journal.append(pins(2, 4))
    whole = path.read_bytes()
    for end in range(len(whole) + 1):
        path.write_bytes(whole[:end])
        expected = pins(0, 4) if end == len(whole) else pins(0, 2) if end >= first else []
        assert journal.load() == (expected, end in (0, first, len(whole)))


def test_a_damaged_frame_ends_the_file(path: Path) -> None:
    """One bit is enough, in lengths, checksums or pins."""
    journal = PinJournal(path)
    journal.append(pins(0, 2))
    first = path.stat().st_size
    journal.append(pins(2, 4))
    whole = path.read_bytes()
    for at in range(first, len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :])
        assert journal.load() == (pins(0, 2), False)


def test_a_file_that_is_not_ours_is_not_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Text, or more bytes than a journal has."""
    path.write_text('{"replicas": []}' * 10)
    assert PinJournal(path).load() == ([], False)
    PinJournal(path).rewrite(pins(0, 100))
    monkeypatch.setattr(pin_journal, "MAX_JOURNAL_BYTES", 100)
    assert PinJournal(path).load() == ([], False)
