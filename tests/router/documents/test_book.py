"""The documents of one edge: written here, taken over from others."""

from typing import Any

import pytest

from pointsman.router.documents import book as module
from pointsman.router.documents.book import Book
from pointsman.router.documents.document import Document
from pointsman.router.errors import LimitError


def doc(version: int, body: dict[str, Any], name: str = "tenant/a") -> Document:
    return Document(name=name, version=version, body=body)


def test_two_edges_end_with_the_same_documents_whatever_came_first() -> None:
    """The greater rank is kept; what is known already changes nothing."""
    told = [doc(1, {"weight": 1}), doc(3, {"weight": 3}), doc(2, {"weight": 2}), doc(3, {"weight": 3})]
    one, other = Book(), Book()
    assert [one.merge(document) for document in told] == [True, True, False, False]
    for document in reversed(told):
        other.merge(document)
    assert list(one) == list(other) == [doc(3, {"weight": 3})]


def test_a_removed_document_does_not_come_back() -> None:
    """It stays as an empty one, which an older version of it does not replace."""
    book = Book()
    book.write("tenant/a", {"weight": 1})
    book.write("tenant/a", {})
    assert book.get("tenant/a") is None
    assert not book.merge(doc(1, {"weight": 1}))
    assert list(book.of("tenant")) == []
    assert [document.version for document in book] == [2]
    book.write("tenant/a", {"weight": 2})
    found = book.get("tenant/a")
    assert found is not None
    assert found.version == 3


def test_a_reader_is_told_what_is_there_and_what_changes() -> None:
    """By the name within its kind."""
    book, told = Book(), []
    book.merge(doc(1, {"weight": 1}))
    book.merge(doc(1, {"hash": "x"}, name="key/1"))
    book.read_by("tenant", lambda name, body: told.append((name, body)))
    book.write("tenant/b", {"weight": 2})
    book.write("tenant/b", {})
    book.write("key/2", {"hash": "y"})
    assert told == [("a", {"weight": 1}), ("b", {"weight": 2}), ("b", {})]


def test_what_a_reader_refuses_is_not_written_here_but_passed_on_from_others() -> None:
    """An edge of a later version may know what it says."""
    book, seen = Book(), []

    def read(name: str, body: dict[str, Any]) -> None:
        if "weight" not in body:
            raise ValueError(name)

    book.read_by("tenant", read)
    book.on_changed.append(seen.append)
    with pytest.raises(ValueError, match="a"):
        book.write("tenant/a", {"later": 1})
    assert book.merge(doc(4, {"later": 1}))
    assert (book.refused, seen) == (1, [doc(4, {"later": 1})])


def test_written_here_and_taken_over_are_told_apart() -> None:
    """Others are told only what was written here."""
    book, written, changed = Book(), [], []
    book.on_written.append(written.append)
    book.on_changed.append(changed.append)
    book.merge(doc(5, {"weight": 1}))
    book.write("tenant/a", {"weight": 2})
    assert written == [doc(6, {"weight": 2})]
    assert changed == [doc(5, {"weight": 1}), doc(6, {"weight": 2})]


def test_documents_of_one_kind_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond, writing is refused with the limit, and what others tell is counted; the other kind has room."""
    monkeypatch.setattr(module, "MAX_DOCUMENTS", 2)
    book = Book()
    for name in ("a", "b"):
        book.write(f"tenant/{name}", {"weight": 1})
    with pytest.raises(LimitError, match="2 documents of the kind tenant"):
        book.write("tenant/c", {"weight": 1})
    assert not book.merge(doc(1, {"weight": 1}, name="tenant/d"))
    book.write("tenant/a", {"weight": 2})
    book.write("key/1", {"hash": "x"})
    assert (len(book), book.refused) == (3, 1)
