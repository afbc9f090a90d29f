"""Documents on disk."""

import os
import sqlite3
import stat
from pathlib import Path

import pytest

from pointsman.router.documents.document import Document
from pointsman.router.documents.file import DocumentFile
from pointsman.router.errors import StateFileError


def doc(name: str, version: int = 1) -> Document:
    return Document(name=name, version=version, body={"note": "ö"}, about={"author": "ada"})


def test_what_was_saved_is_read_again(tmp_path: Path) -> None:
    """By another process, the latest version of each."""
    file = DocumentFile(tmp_path / "documents.db")
    file.save([doc("key/a"), doc("tenant/b")])
    file.save([doc("key/a", 2)])
    file.close()
    assert sorted(DocumentFile(tmp_path / "documents.db").load(), key=lambda found: found.name) == [
        doc("key/a", 2),
        doc("tenant/b"),
    ]


def test_without_a_file_there_is_nothing_and_none_is_made(tmp_path: Path) -> None:
    """Whoever keeps no documents has no file."""
    assert DocumentFile(tmp_path / "documents.db").load() == []
    assert list(tmp_path.iterdir()) == []


def test_only_its_owner_reads_the_file(tmp_path: Path) -> None:
    """Whatever the umask."""
    before = os.umask(0)
    try:
        DocumentFile(tmp_path / "documents.db").save([doc("key/a")])
    finally:
        os.umask(before)
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o600}


def test_what_was_saved_outlives_a_process_that_is_killed(tmp_path: Path) -> None:
    """The file is not closed; another connection sees the row."""
    file = DocumentFile(tmp_path / "documents.db")
    file.save([doc("key/a")])
    other = sqlite3.connect(tmp_path / "documents.db")
    assert other.execute("SELECT count(*) FROM documents").fetchone() == (1,)
    other.close()
    file.close()


@pytest.mark.parametrize("content", [b"no database at all" * 100, b"SQLite format 3\x00broken" * 100])
def test_a_file_that_is_no_database_is_named_and_can_be_set_aside(tmp_path: Path, content: bytes) -> None:
    """Then a new one is begun."""
    path = tmp_path / "documents.db"
    path.write_bytes(content)
    file = DocumentFile(path)
    with pytest.raises(StateFileError, match=r"documents_file: .*documents\.db"):
        file.load()
    assert file.set_aside().read_bytes() == content
    file.save([doc("key/a")])
    assert file.load() == [doc("key/a")]
    file.close()


def test_a_file_of_a_later_version_is_refused(tmp_path: Path) -> None:
    """It is not written into."""
    path = tmp_path / "documents.db"
    later = sqlite3.connect(path)
    later.execute("PRAGMA user_version=99")
    later.close()
    with pytest.raises(StateFileError, match="schema 99 is later"):
        DocumentFile(path).load()


def test_a_disk_that_does_not_take_it_is_an_os_error(tmp_path: Path) -> None:
    """Whoever saves tries again."""
    file = DocumentFile(tmp_path / "missing" / "documents.db")
    with pytest.raises(OSError, match="missing"):
        file.save([doc("key/a")])
