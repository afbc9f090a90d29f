"""SQLite files that only their owner may read, from their first byte on. SQLite is imported when one is opened."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pointsman.contract.private_files import MODE

if TYPE_CHECKING:
    import sqlite3


class LaterSchemaError(ValueError):
    """The file was written by a later version of this program."""

    def __init__(self, found: int, known: int) -> None:
        super().__init__(f"schema {found} is later than {known}, the latest known here")
        self.found = found


def open_private(path: Path, *, schema: int, tables: str, wait_s: float) -> sqlite3.Connection:
    """Open a file for writing, or make it, with these tables. Each statement is a transaction but within BEGIN.

    schema: number of the form of the tables. wait_s: longest wait for another process that has the file.
    Raises LaterSchemaError, sqlite3.Error or OSError; nothing is open then, and a later file is not written into.
    """
    import sqlite3

    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, MODE))
    database = sqlite3.connect(path, timeout=wait_s, check_same_thread=False, isolation_level=None)
    try:
        found = database.execute("PRAGMA user_version").fetchone()[0]
        if found > schema:
            raise LaterSchemaError(found, schema)
        database.execute("PRAGMA journal_mode=WAL")
        database.executescript(tables)
        database.execute(f"PRAGMA user_version={schema}")
    except BaseException:
        database.close()
        raise
    return database


@contextmanager
def transaction(database: sqlite3.Connection) -> Iterator[None]:
    """Have all that is executed within be done, or nothing of it."""
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
        database.execute("COMMIT")
    except BaseException:
        database.execute("ROLLBACK")
        raise


def set_aside(path: Path, suffix: str) -> Path:
    """Rename a file that cannot be read, and drop what SQLite keeps beside it; the new name. Raises OSError."""
    aside = path.with_name(path.name + suffix)
    path.replace(aside)
    for beside in ("-wal", "-shm"):
        path.with_name(path.name + beside).unlink(missing_ok=True)
    return aside
