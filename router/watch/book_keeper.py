"""Documents for a restart on the same host: each that changes is on disk before the call that changed it is answered.

`BookKeeper` owns the schedule; the file is written beside the event loop, one write at a time, all that changed
meanwhile together. A disk that does not take the documents is tried again until it does, and readiness says so.
"""

from __future__ import annotations

import asyncio

from pointsman.contract.backoff import Backoff
from pointsman.router.documents.book import Book
from pointsman.router.documents.document import Document
from pointsman.router.documents.file import DocumentFile
from pointsman.router.errors import StateFileError
from pointsman.router.process.readiness import Readiness
from pointsman.router.process.saving import Saving

MIN_BACKOFF_S = 0.2
MAX_BACKOFF_S = 10.0
"""Between tries while the disk does not take the documents."""

SAVE_S = 2.0
"""Longest wait of a call for its document to be on disk."""

LOADED = "documents file"
SAVED = "saving documents"
"""Parts that `/readyz` says are degraded."""


class BookKeeper:
    """The documents of one edge, and their file."""

    def __init__(self, book: Book, file: DocumentFile, *, readiness: Readiness) -> None:
        self._book = book
        self._file = file
        self._saving = Saving("documents", file, loaded=LOADED, saved=SAVED, readiness=readiness)
        self._unsaved: dict[str, Document] = {}
        self._changed = asyncio.Event()
        self._saved = asyncio.Event()
        self._saved.set()

    @property
    def save_errors(self) -> int:
        """Writes that the disk did not take."""
        return self._saving.errors

    def load(self) -> None:
        """Take over what was saved; a file that cannot be read is set aside."""
        try:
            documents = self._file.load()
        except StateFileError as error:
            self._saving.set_aside(error)
            documents = []
        for document in documents:
            self._book.merge(document)
        self._book.on_changed.append(self._note)

    def _note(self, document: Document) -> None:
        self._unsaved[document.name] = document
        self._saved.clear()
        self._changed.set()

    async def saved(self) -> bool:
        """Wait until all documents are on disk; False if that takes too long."""
        try:
            async with asyncio.timeout(SAVE_S):
                await self._saved.wait()
        except TimeoutError:
            return False
        return True

    async def run(self) -> None:
        """Save what changes until cancelled; nothing is being written any more then."""
        backoff = Backoff(MIN_BACKOFF_S, MAX_BACKOFF_S)
        while True:
            await self._changed.wait()
            self._changed.clear()
            batch = list(self._unsaved.values())
            if await self._saving.write(self._file.save, batch):
                backoff.reset()
                self._forget(batch)
            else:
                self._changed.set()
                await backoff.pause()

    def _forget(self, saved: list[Document]) -> None:
        """Let go of documents that are on disk, but for those that have changed again."""
        for document in saved:
            if self._unsaved[document.name] is document:
                del self._unsaved[document.name]
        if not self._unsaved:
            self._saved.set()

    def close(self) -> None:
        """Save what is left, and let go of the file."""
        if self._unsaved:
            self._saving.write_now(self._file.save, list(self._unsaved.values()))
        self._file.close()
