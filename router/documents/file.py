"""Documents on disk, in one SQLite file: a document that changes costs one row, however many there are.

Opened when there is something to read or to write, and not before. All methods block: they are called beside the event
loop, one at a time. The file is private from its first byte on, as keys' hashes and limits are in it.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from pointsman.router.documents.document import Document
from pointsman.router.errors import StateFileError
from pointsman.router.process.private_database import open_private, set_aside, transaction

if TYPE_CHECKING:
    import sqlite3

SCHEMA_VERSION = 1
BUSY_S = 2.0
"""Longest wait for another process that has the file."""

_TABLES = """
CREATE TABLE IF NOT EXISTS documents (
    name TEXT PRIMARY KEY,
    version INTEGER NOT NULL,
    document BLOB NOT NULL
) WITHOUT ROWID;
"""


class DocumentFile:
    """Documents of one edge in a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._database: sqlite3.Connection | None = None

    def __repr__(self) -> str:
        return f"DocumentFile({str(self._path)!r})"

    def load(self) -> list[Document]:
        """Read all documents; none where there is no file. Raises StateFileError for a file that cannot be read."""
        if not self._path.exists():
            return []
        import sqlite3

        try:
            rows = self._open().execute("SELECT document FROM documents").fetchall()
            return [msgspec.json.decode(row[0], type=Document) for row in rows]
        except (sqlite3.Error, OSError, msgspec.MsgspecError, ValueError) as error:
            self.close()
            raise StateFileError(f"documents_file: {self._path}: {error}") from error

    def save(self, documents: Iterable[Document]) -> None:
        """Write documents in place of those of the same names, all or none. Raises OSError where the disk does not take
        them."""
        import sqlite3

        rows = [(document.name, document.version, msgspec.json.encode(document)) for document in documents]
        try:
            database = self._open()
            with transaction(database):
                database.executemany("INSERT OR REPLACE INTO documents VALUES (?, ?, ?)", rows)
        except sqlite3.Error as error:
            self.close()
            raise OSError(None, str(error), str(self._path)) from error

    def set_aside(self) -> Path:
        """Rename a file that cannot be read. Raises OSError."""
        return set_aside(self._path, ".unreadable")

    def close(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None

    def _open(self) -> sqlite3.Connection:
        if self._database is None:
            database = open_private(self._path, schema=SCHEMA_VERSION, tables=_TABLES, wait_s=BUSY_S)
            database.execute("PRAGMA synchronous=FULL")  # what an answer promised is on the disk
            self._database = database
        return self._database
