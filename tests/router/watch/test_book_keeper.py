"""Documents and their file, through restarts and full disks."""

import asyncio
from pathlib import Path

import pytest

from pointsman.router.documents.book import Book
from pointsman.router.documents.document import Document
from pointsman.router.documents.file import DocumentFile
from pointsman.router.process.readiness import Readiness
from pointsman.router.watch import book_keeper
from pointsman.router.watch.book_keeper import BookKeeper


class Kept:
    """A book with its keeper, running."""

    def __init__(self, folder: Path) -> None:
        self.book = Book()
        self.file = DocumentFile(folder / "documents.db")
        self.readiness = Readiness()
        self.keeper = BookKeeper(self.book, self.file, readiness=self.readiness)

    async def __aenter__(self) -> "Kept":
        self.keeper.load()
        self.task = asyncio.create_task(self.keeper.run())
        return self

    async def __aexit__(self, *error: object) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        self.keeper.close()


async def test_a_document_is_there_after_a_restart(tmp_path: Path) -> None:
    """As soon as the call that wrote it is answered; a removed one stays removed."""
    async with Kept(tmp_path) as first:
        first.book.write("tenant/a", {"weight": 1})
        first.book.write("tenant/b", {"weight": 2})
        first.book.write("tenant/b", {})
        assert await first.keeper.saved()
        crashed = Book()
        for document in DocumentFile(tmp_path / "documents.db").load():
            crashed.merge(document)
        assert list(crashed) == list(first.book)
    async with Kept(tmp_path) as second:
        assert [document.name for document in second.book.of("tenant")] == ["tenant/a"]
        assert second.book.known("tenant/b") is not None


async def test_what_another_edge_told_is_kept_too(tmp_path: Path) -> None:
    """A restart while the store is away starts with it."""
    async with Kept(tmp_path) as first:
        first.book.merge(Document(name="tenant/a", version=7, body={"weight": 1}))
    async with Kept(tmp_path) as second:
        assert [document.version for document in second.book] == [7]


async def test_a_disk_that_refuses_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Readiness says so until it takes the documents."""
    monkeypatch.setattr(book_keeper, "MIN_BACKOFF_S", 0.001)
    monkeypatch.setattr(book_keeper, "SAVE_S", 0.05)
    async with Kept(tmp_path) as kept:
        save, refuses = kept.file.save, True

        def saving(documents: list[Document]) -> None:
            if refuses:
                raise OSError(None, "disk full")
            save(documents)

        monkeypatch.setattr(kept.file, "save", saving)
        kept.book.write("tenant/a", {"weight": 1})
        assert not await kept.keeper.saved()
        assert kept.keeper.save_errors
        assert any("disk full" in line for line in kept.readiness.impaired())
        refuses = False
        monkeypatch.setattr(book_keeper, "SAVE_S", 5.0)
        assert await kept.keeper.saved()
        assert kept.readiness.impaired() == []


async def test_a_file_that_cannot_be_read_is_set_aside(tmp_path: Path) -> None:
    """The router starts without it and says so."""
    (tmp_path / "documents.db").write_bytes(b"junk" * 1000)
    async with Kept(tmp_path) as kept:
        assert (tmp_path / "documents.db.unreadable").exists()
        assert any("documents.db.unreadable" in line for line in kept.readiness.impaired())
        kept.book.write("tenant/a", {"weight": 1})
        assert await kept.keeper.saved()
