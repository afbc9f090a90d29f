"""Usage in its file: over lives, in one transaction with the positions of engines, and what does not fit."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from pointsman.router.tenancy.usage import UsageKey, UsageNames, Values
from pointsman.router.tenancy.usage_file import CHUNK_ROWS, UsageFile, UsageFileError

ACME = UsageKey(1000, UsageNames("acme", "k1", "m", "a"))
ZETA = UsageKey(1001, UsageNames("zeta", "", "m", ""))


def values(requests: float) -> Values:
    return (requests, *[10 * requests] * 8)


def opened(folder: Path) -> UsageFile:
    file = UsageFile(folder / "usage.db")
    file.open()
    return file


def rows_of(file: UsageFile, begin: int = 0, end: int = 10_000) -> dict[UsageKey, float]:
    """Requests by row."""
    return {key: figures[0] for chunk in file.rows(begin, end) for key, figures in chunk}


def test_rows_are_written_as_they_stand(tmp_path: Path) -> None:
    """Twice is once; a file of its own user, that others cannot read."""
    file = opened(tmp_path)
    for _ in range(2):
        file.write("one", [(ACME, values(2)), (ZETA, values(1))], {}, 1000)
    file.write("one", [(ACME, values(3))], {}, 1000)
    assert rows_of(file) == {ACME: 3, ZETA: 1}
    assert rows_of(file, 1001) == {ZETA: 1}
    assert file.path.stat().st_mode & 0o777 == 0o600
    file.close()


def test_lives_add_up(tmp_path: Path) -> None:
    """However often a file is opened."""
    for life in ("one", "two", "three"):
        file = opened(tmp_path)
        file.write(life, [(ACME, values(2))], {("r", life): 7}, 1000)
        file.close()
    file = opened(tmp_path)
    assert rows_of(file) == {ACME: 6}
    assert file.sources() == {("r", "one"): 7, ("r", "two"): 7, ("r", "three"): 7}
    file.close()


def test_usage_is_added_up_by_group(tmp_path: Path) -> None:
    """In the order of the groups, over lives."""
    file = opened(tmp_path)
    file.write("one", [(ACME, values(2)), (ZETA, values(1))], {}, 1000)
    file.write("two", [(ACME, values(1))], {}, 1000)
    grouped = file.grouped(0, 10_000, ("tenant", "day"))
    assert [(group, figures[:2]) for group, figures in grouped] == [(("acme", 41), (3, 30)), (("zeta", 41), (1, 10))]
    file.close()


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    """Rows and positions are in the file together, or not at all."""
    file = opened(tmp_path)
    with pytest.raises(UsageFileError):
        file.write("one", [(ACME, values(1))], {("r", None): 1}, 1000)  # type: ignore[dict-item]
    assert rows_of(file) == {}
    file.write("one", [(ACME, values(1))], {("r", "e"): 1}, 1000)
    assert rows_of(file) == {ACME: 1}
    file.close()


def test_old_hours_are_deleted(tmp_path: Path) -> None:
    """With engines that were not heard of since."""
    file = opened(tmp_path)
    file.write("one", [(ACME, values(1)), (ZETA, values(1))], {("r", "e"): 1}, 1000)
    assert file.expire(1001) == 1
    assert rows_of(file) == {ZETA: 1} and file.sources() == {}
    file.close()


def test_many_rows_come_in_chunks(tmp_path: Path) -> None:
    """So that a reader of all holds few."""
    file = opened(tmp_path)
    many = [(UsageKey(1, UsageNames(f"t{n}")), values(1)) for n in range(CHUNK_ROWS + 1)]
    file.write("one", many, {}, 1)
    assert [len(chunk) for chunk in file.rows(0, 10)] == [CHUNK_ROWS, 1]
    file.close()


def test_a_file_that_is_none_is_set_aside(tmp_path: Path) -> None:
    """Under another name, and a fresh one takes its place; one of a later version is refused."""
    file = UsageFile(tmp_path / "usage.db")
    file.path.write_bytes(b"this is no database, and long enough to be taken for one" * 100)
    with pytest.raises(UsageFileError):
        file.open()
    assert file.set_aside() == tmp_path / "usage.db.bad"
    file.open()
    file.close()
    with sqlite3.connect(file.path) as later:
        later.execute("PRAGMA user_version = 99")
    later.close()
    with pytest.raises(UsageFileError, match="later version"):
        file.open()


def test_a_file_that_is_not_open_says_so(tmp_path: Path) -> None:
    """Or is not there."""
    file = UsageFile(tmp_path / "usage.db")
    with pytest.raises(UsageFileError, match="not open"):
        file.write("one", [], {}, 1)
    with pytest.raises(UsageFileError):
        list(file.rows(0, 1))
