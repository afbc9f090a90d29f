"""SQLite files that only their owner may read."""

from __future__ import annotations

import os
import sqlite3
import stat
from pathlib import Path

import pytest

from pointsman.router.process.private_database import LaterSchemaError, open_private, set_aside, transaction

TABLES = "CREATE TABLE IF NOT EXISTS things (name TEXT PRIMARY KEY);"


def opened(path: Path, schema: int = 1) -> sqlite3.Connection:
    return open_private(path, schema=schema, tables=TABLES, wait_s=1.0)


def names(database: sqlite3.Connection) -> list[str]:
    return [name for (name,) in database.execute("SELECT name FROM things ORDER BY name")]


def test_only_its_owner_reads_the_file_and_what_is_beside_it(tmp_path: Path) -> None:
    """Whatever the umask."""
    before = os.umask(0)
    try:
        database = opened(tmp_path / "a.db")
        database.execute("INSERT INTO things VALUES ('x')")
    finally:
        os.umask(before)
    assert len(list(tmp_path.iterdir())) > 1
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o600}
    database.close()


def test_a_transaction_is_done_whole_or_not_at_all(tmp_path: Path) -> None:
    """Another connection sees it once it is done."""
    database, other = opened(tmp_path / "a.db"), opened(tmp_path / "a.db")
    with transaction(database):
        database.execute("INSERT INTO things VALUES ('x')")
        assert names(other) == []
    assert names(other) == ["x"]
    with pytest.raises(ZeroDivisionError), transaction(database):
        database.execute("INSERT INTO things VALUES ('y')")
        _ = 1 / 0
    assert names(database) == names(other) == ["x"]
    database.close()
    other.close()


def test_a_file_of_a_later_version_is_not_written_into(tmp_path: Path) -> None:
    """The versions are in the sentence."""
    opened(tmp_path / "a.db", schema=7).close()
    before = (tmp_path / "a.db").read_bytes()
    with pytest.raises(LaterSchemaError, match="schema 7 is later than 1") as refused:
        opened(tmp_path / "a.db")
    assert refused.value.found == 7
    assert (tmp_path / "a.db").read_bytes() == before


def test_a_file_that_is_no_database_is_set_aside_with_what_is_beside_it(tmp_path: Path) -> None:
    """Then a new one is begun under its name."""
    for name in ("a.db", "a.db-wal", "a.db-shm"):
        (tmp_path / name).write_bytes(b"none" * 1000)
    with pytest.raises(sqlite3.Error):
        opened(tmp_path / "a.db")
    assert set_aside(tmp_path / "a.db", ".bad") == tmp_path / "a.db.bad"
    assert [path.name for path in tmp_path.iterdir()] == ["a.db.bad"]
    database = opened(tmp_path / "a.db")
    assert names(database) == []
    database.close()
