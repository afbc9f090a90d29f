"""Usage in a file of SQLite, which one router writes: rows as they are, and how far engines' reports are in them.

A row is kept by its life, with its value at that time, so that writing it again changes nothing. When a file is opened,
the rows of earlier lives are added up. Rows and positions are written in one transaction: what a report said is in the
file exactly when its number is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pointsman.router.process.private_database import LaterSchemaError, open_private, set_aside, transaction
from pointsman.router.tenancy.usage import COLUMNS, UsageKey, UsageNames, Values

if TYPE_CHECKING:
    import sqlite3

SCHEMA = 1

WAIT_S = 5.0
"""Seconds that a reader waits for a write to end."""

CHUNK_ROWS = 1000

GROUPS = {
    "tenant": "tenant",
    "key": "key",
    "model": "model",
    "adapter": "adapter",
    "hour": "hour",
    "day": "hour / 24",
}
"""Expressions by which usage can be added up."""

_NAMES = "hour, tenant, key, model, adapter"
_FIGURES = ", ".join(COLUMNS)
_SUMS = ", ".join(f"sum({column})" for column in COLUMNS)
_TABLES = f"""
CREATE TABLE IF NOT EXISTS usage (
  hour INTEGER NOT NULL, tenant TEXT NOT NULL, key TEXT NOT NULL, model TEXT NOT NULL, adapter TEXT NOT NULL,
  life TEXT NOT NULL, {", ".join(f"{column} NOT NULL" for column in COLUMNS)},
  PRIMARY KEY ({_NAMES}, life)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS sources (
  replica TEXT NOT NULL, epoch TEXT NOT NULL, counted INTEGER NOT NULL, hour INTEGER NOT NULL,
  PRIMARY KEY (replica, epoch)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS notes (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
"""
_PUT = (
    f"INSERT INTO usage ({_NAMES}, life, {_FIGURES}) VALUES ({', '.join('?' * (6 + len(COLUMNS)))}) "
    f"ON CONFLICT DO UPDATE SET {', '.join(f'{column} = excluded.{column}' for column in COLUMNS)}"
)
_MERGE = (
    f"INSERT INTO usage ({_NAMES}, life, {_FIGURES}) "
    f"SELECT {_NAMES}, '', {_SUMS} FROM usage WHERE life <> '' GROUP BY {_NAMES} "
    f"ON CONFLICT DO UPDATE SET {', '.join(f'{column} = {column} + excluded.{column}' for column in COLUMNS)}"
)
_PUT_SOURCE = (
    "INSERT INTO sources (replica, epoch, counted, hour) VALUES (?, ?, ?, ?) "
    "ON CONFLICT DO UPDATE SET counted = excluded.counted, hour = excluded.hour"
)


class UsageFileError(Exception):
    """The file cannot be read or written."""


class UsageFile:
    """One router's file. Methods may be called in any thread, one at a time but for those that read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._writer: sqlite3.Connection | None = None

    def __repr__(self) -> str:
        return f"UsageFile({self.path})"

    def open(self) -> None:
        """Create the file, or add up what earlier lives left in it. Raises UsageFileError."""
        import sqlite3

        try:
            writer = open_private(self.path, schema=SCHEMA, tables=_TABLES, wait_s=WAIT_S)
            try:
                with transaction(writer):
                    writer.execute(_MERGE)
                    writer.execute("DELETE FROM usage WHERE life <> ''")
            except BaseException:
                writer.close()
                raise
        except LaterSchemaError as error:
            known = f"at most {SCHEMA} is known here"
            raise UsageFileError(f"{self.path} is of a later version: {error.found}, {known}") from error
        except (sqlite3.Error, OSError) as error:
            raise UsageFileError(f"{self.path}: {error}") from error
        self._writer = writer

    def set_aside(self) -> Path:
        """Rename a file that cannot be read; its name from now on."""
        return set_aside(self.path, ".bad")

    def close(self) -> None:
        """Close the file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def write(
        self, life: str, rows: Sequence[tuple[UsageKey, Values]], sources: Mapping[tuple[str, str], int], hour: int
    ) -> None:
        """Put rows of a life and positions of engines, all or none. Raises UsageFileError.

        hour: the present one, for `expire`.
        """
        import sqlite3

        writer = self._opened()
        try:
            with transaction(writer):
                writer.executemany(_PUT, ((key.hour, *key.names, life, *values) for key, values in rows))
                writer.executemany(_PUT_SOURCE, ((*source, counted, hour) for source, counted in sources.items()))
        except sqlite3.Error as error:
            raise UsageFileError(f"{self.path}: {error}") from error

    def leave_note(self, name: str, value: bytes) -> None:
        """Leave something for the life that comes next. Raises UsageFileError."""
        self._change("INSERT OR REPLACE INTO notes (name, value) VALUES (?, ?)", name, value)

    def take_note(self, name: str) -> bytes:
        """Take what the life before left; empty for nothing. Raises UsageFileError."""
        found = [value for (value,) in self._read("SELECT value FROM notes WHERE name = ?", (name,))]
        self._change("DELETE FROM notes WHERE name = ?", name)
        return bytes(found[0]) if found else b""

    def sources(self) -> dict[tuple[str, str], int]:
        """Reports that are in the file, by replica id and epoch."""
        found = self._read("SELECT replica, epoch, counted FROM sources ORDER BY hour", ())
        return {(replica, epoch): counted for replica, epoch, counted in found}

    def rows(self, begin: int, end: int) -> Iterator[list[tuple[UsageKey, Values]]]:
        """Rows of the hours from `begin` to before `end`, lives added up, some at a time. Raises UsageFileError."""
        query = f"SELECT {_NAMES}, {_SUMS} FROM usage WHERE hour >= ? AND hour < ? GROUP BY {_NAMES} ORDER BY {_NAMES}"
        chunk: list[tuple[UsageKey, Values]] = []
        for hour, *rest in self._read(query, (begin, end)):
            chunk.append((UsageKey(hour, UsageNames(*rest[:4])), tuple(rest[4:])))
            if len(chunk) == CHUNK_ROWS:
                yield chunk
                chunk = []
        if chunk:
            yield chunk

    def grouped(self, begin: int, end: int, by: Sequence[str]) -> list[tuple[tuple[Any, ...], Values]]:
        """Sums of those hours by names of `GROUPS`, in their order. Raises UsageFileError."""
        groups = ", ".join(GROUPS[name] for name in by)
        query = f"SELECT {groups}, {_SUMS} FROM usage WHERE hour >= ? AND hour < ? GROUP BY {groups} ORDER BY {groups}"
        return [(row[: len(by)], row[len(by) :]) for row in self._read(query, (begin, end))]

    def expire(self, before: int) -> int:
        """Delete hours before this one; how many rows there were. Raises UsageFileError."""
        deleted = self._change("DELETE FROM usage WHERE hour < ?", before)
        self._change("DELETE FROM sources WHERE hour < ?", before)
        return deleted

    def _change(self, statement: str, *values: object) -> int:
        """Change the file; how many rows that were."""
        import sqlite3

        try:
            return int(self._opened().execute(statement, values).rowcount)
        except sqlite3.Error as error:
            raise UsageFileError(f"{self.path}: {error}") from error

    def _opened(self) -> sqlite3.Connection:
        if self._writer is None:
            raise UsageFileError(f"{self.path} is not open")
        return self._writer

    def _read(self, query: str, values: Iterable[object]) -> Iterator[tuple[Any, ...]]:
        import sqlite3

        try:
            with closing(
                sqlite3.connect(f"file:{self.path}?mode=ro", uri=True, timeout=WAIT_S, check_same_thread=False)
            ) as reader:
                yield from reader.execute(query, tuple(values))
        except sqlite3.Error as error:
            raise UsageFileError(f"{self.path}: {error}") from error
