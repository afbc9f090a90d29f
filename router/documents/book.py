"""All documents of one edge that have a name of two parts, `KIND/NAME`: keys, tenants, aliases.

`Book` owns them and knows nothing of what they say; who does registers a reader of a kind. What always holds: of two
versions of a document the one with the greater rank is kept, in whatever order they come, so that edges that tell each
other their documents end with the same ones; readers have been told the content of each document that is here. A
document that was removed stays as an empty one, else an edge that missed it would bring the old one back.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from pointsman.router.documents.document import Document
from pointsman.router.errors import LimitError

MAX_DOCUMENTS = 100_000
"""Documents of one kind, removed ones included."""

Body = dict[str, Any]
Read = Callable[[str, Body], None]
"""Takes over the content of the document `NAME` of a kind; empty where it was removed. Raises ValueError or
msgspec.ValidationError for content that is of no use here, which leaves the reader as it was."""


def kind_of(name: str) -> str:
    """Return the first part of a document's name."""
    return name.partition("/")[0]


class Book:
    """Documents by name."""

    def __init__(self) -> None:
        self._documents: dict[str, Document] = {}
        self._counts: dict[str, int] = defaultdict(int)
        self._readers: dict[str, Read] = {}
        self.on_changed: list[Callable[[Document], None]] = []
        """Called with each document that is taken over, from here or from elsewhere."""
        self.on_written: list[Callable[[Document], None]] = []
        """Called with each document that is written at this edge."""
        self.refused = 0
        """Documents of others whose content is of no use here."""

    def __len__(self) -> int:
        return len(self._documents)

    def __iter__(self) -> Iterator[Document]:
        return iter(self._documents.values())

    def __repr__(self) -> str:
        return f"Book({dict(self._counts)})"

    def read_by(self, kind: str, read: Read) -> None:
        """Has the documents of a kind read by `read`, those that are here at once."""
        self._readers[kind] = read
        for name, document in self._documents.items():
            if kind_of(name) == kind:
                self._tell(document)

    def get(self, name: str) -> Document | None:
        """The document of a name; None where there is none, or it was removed."""
        found = self._documents.get(name)
        return found if found is not None and found.body else None

    def known(self, name: str) -> Document | None:
        """The document of a name, a removed one included."""
        return self._documents.get(name)

    def names(self) -> list[str]:
        """The names of all documents, removed ones included."""
        return list(self._documents)

    def of(self, kind: str) -> Iterator[Document]:
        """The documents of a kind that are not removed, in the order in which they came."""
        return (found for name, found in self._documents.items() if found.body and kind_of(name) == kind)

    def write(self, name: str, body: Body, about: dict[str, str] | None = None) -> Document:
        """Puts a document here, at its next version. Empty content removes it.

        Raises ValueError for content that its reader refuses, LimitError beyond `MAX_DOCUMENTS` of its kind.
        """
        before = self._documents.get(name)
        kind = kind_of(name)
        if before is None and self._counts[kind] >= MAX_DOCUMENTS:
            raise LimitError(f"{MAX_DOCUMENTS} documents of the kind {kind} are the most")
        document = Document(
            name=name, version=1 if before is None else before.version + 1, body=body, about=about or {}
        )
        self._tell(document)
        self._keep(document)
        for written in self.on_written:
            written(document)
        return document

    def merge(self, document: Document) -> bool:
        """Takes over a document of another edge, or of a file, where its rank is greater; whether it did."""
        before = self._documents.get(document.name)
        if before is not None and before.rank >= document.rank:
            return False
        if before is None and self._counts[kind_of(document.name)] >= MAX_DOCUMENTS:
            self.refused += 1
            return False
        try:
            self._tell(document)
        except (ValueError, msgspec.ValidationError):
            # Kept and passed on all the same: an edge of a later version may know what it says.
            self.refused += 1
        self._keep(document)
        return True

    def _tell(self, document: Document) -> None:
        kind, _, name = document.name.partition("/")
        read = self._readers.get(kind)
        if read is not None:
            read(name, document.body)

    def _keep(self, document: Document) -> None:
        if document.name not in self._documents:
            self._counts[kind_of(document.name)] += 1
        self._documents[document.name] = document
        for changed in self.on_changed:
            changed(document)
