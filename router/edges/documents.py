"""Documents that are the same on all edges, such as the live policy: the one put last, of any edge.

Each has a version one above the one known where it was put; of two puts at once the greater `Document.rank` is right on
every edge. A document of another edge that this one cannot use (a policy of a later version) leaves its own in place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pointsman.router.documents.document import Document


class SharedDocument:
    """Way to read and replace one document at this edge."""

    def __init__(
        self,
        read: Callable[[], dict[str, Any] | None],
        write: Callable[[dict[str, Any], Mapping[str, str]], None],
        about: Callable[[], dict[str, str]] = dict,
    ) -> None:
        """read: the document; None while there is nothing to share.
        write: takes over one of another edge, with what was said of it; raises ValueError for one of no use here.
        about: what was said of the document that `read` gives."""
        self.read = read
        self.write = write
        self.about = about
        self.agreed: Document | None = None
        self.here: dict[str, Any] | None = None
        """Document that `read` gave when it last agreed with the others."""


class SharedDocuments:
    """All shared documents, by name."""

    def __init__(self, documents: Mapping[str, SharedDocument]) -> None:
        self._documents = dict(documents)
        self.changed = bool(documents)
        """A document may differ from what is agreed."""
        self.refused = 0
        """Documents of others that this edge cannot use."""

    def agreed(self) -> list[Document]:
        """The agreed version of each document."""
        return [shared.agreed for shared in self._documents.values() if shared.agreed is not None]

    def next_version(self, name: str) -> int:
        """The version that a document of that name would get if it were put here."""
        agreed = self._documents[name].agreed
        return 1 if agreed is None else agreed.version + 1

    def changes(self) -> list[Document]:
        """Return the documents put here since the last call, at their next version; they are agreed from here on."""
        if not self.changed:
            return []
        self.changed = False
        changes = []
        for name, shared in self._documents.items():
            body = shared.read()
            if body is not None and body != shared.here:
                shared.here = body
                shared.agreed = Document(name=name, version=self.next_version(name), body=body, about=shared.about())
                changes.append(shared.agreed)
        return changes

    def merge(self, document: Document) -> None:
        """Take over the document of another edge where its rank is greater. `changes` was called before."""
        assert not self.changed, "changes made here come first"
        shared = self._documents.get(document.name)
        if shared is None or (shared.agreed is not None and shared.agreed.rank >= document.rank):
            return
        shared.agreed = document
        try:
            shared.write(document.body, document.about)
        except ValueError:
            self.refused += 1
        shared.here = shared.read()
        self.changed = False  # by what was agreed
