"""The access log as a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from pointsman.router.watch import access_log
from pointsman.router.watch.access_log import AccessLog


async def test_each_line_is_written_once_and_in_order(tmp_path: Path) -> None:
    """Into a folder that is made where there is none, behind what the file has."""
    path = tmp_path / "log" / "access.jsonl"
    path.parent.mkdir()
    path.write_text("before\n")
    written = AccessLog(str(path))
    for number in range(3):
        written.add(b"line %d" % number)
    await written.flush()
    written.add(b"last")
    written.close()
    assert path.read_text() == "before\nline 0\nline 1\nline 2\nlast\n"


async def test_a_file_that_was_moved_away_is_opened_anew(tmp_path: Path) -> None:
    """As logrotate does it, without a signal."""
    path = tmp_path / "access.jsonl"
    written = AccessLog(str(path))
    written.add(b"one")
    await written.flush()
    path.rename(tmp_path / "access.jsonl.1")
    written.add(b"two")
    await written.flush()
    written.close()
    assert (path.read_text(), (tmp_path / "access.jsonl.1").read_text()) == ("two\n", "one\n")


async def test_lines_that_the_disk_does_not_take_are_counted(tmp_path: Path) -> None:
    """And what comes once it does again is written."""
    path = tmp_path / "access.jsonl"
    path.mkdir()
    written = AccessLog(str(path))
    written.add(b"lost")
    await written.flush()
    assert (written.lines, written.dropped) == (0, 1)
    path.rmdir()
    written.add(b"kept")
    await written.flush()
    assert (written.lines, written.dropped, path.read_text()) == (1, 1, "kept\n")


async def test_what_waits_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk slower than the traffic costs lines, not memory."""
    monkeypatch.setattr(access_log, "MAX_WAITING_BYTES", 10)
    written = AccessLog(str(tmp_path / "access.jsonl"))
    for _ in range(4):
        written.add(b"12345")
    await written.flush()
    assert (written.lines, written.dropped) == (2, 2)
