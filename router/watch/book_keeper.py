"""Documents for a restart on the same host: each that changes is on disk before the call that changed it is answered.

`BookKeeper` owns the schedule; the file is written beside the event loop, one write at a time, all that changed
meanwhile together. A disk that does not take the documents is tried again until it does, and readiness says so.
"""

from __future__ import annotations

import asyncio

import structlog

from pointsman.contract.backoff import Backoff
from pointsman.router.documents.book import Book
from pointsman.router.documents.document import Document
from pointsman.router.documents.file import DocumentFile
from pointsman.router.errors import StateFileError
from pointsman.router.process.readiness import Readiness

MIN_BACKOFF_S = 0.2
MAX_BACKOFF_S = 10.0
"""Between tries while the disk does not take the documents."""

SAVE_S = 2.0
"""Longest wait of a call for its document to be on disk."""

LOADED = "documents file"
SAVED = "saving documents"
"""Parts that `/readyz` says are degraded."""

log = structlog.get_logger(__name__)


class BookKeeper:
    """The documents of one edge, and their file."""

    def __init__(self, book: Book, file: DocumentFile, *, readiness: Readiness) -> None:
        self._book = book
        self._file = file
        self._readiness = readiness
        self._unsaved: dict[str, Document] = {}
        self._changed = asyncio.Event()
        self._saved = asyncio.Event()
        self._saved.set()
        self.save_errors = 0
        """Writes that the disk did not take."""

    def load(self) -> None:
        """Take over what was saved; a file that cannot be read is set aside."""
        try:
            documents = self._file.load()
        except StateFileError as error:
            self._set_aside(error)
            documents = []
        for document in documents:
            self._book.merge(document)
        self._book.on_changed.append(self._note)

    def _set_aside(self, error: StateFileError) -> None:
        try:
            kept = f"it is kept as {self._file.set_aside()}"
        except OSError as refused:
            kept = f"it cannot be set aside: {refused.strerror}"
        self._readiness.degraded(LOADED, f"started without what was saved; {kept}: {error}")
        log.error("documents file is unreadable, starting without it", error=str(error), kept=kept)

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
            batch, self._unsaved = self._unsaved, {}
            writing = asyncio.get_running_loop().run_in_executor(None, self._write, list(batch.values()))
            try:
                refused = await asyncio.shield(writing)
            except asyncio.CancelledError:
                if (refused := await writing) is not None:
                    self._unsaved = batch | self._unsaved
                raise
            self._take_result(refused)
            if refused is None:
                backoff.reset()
                if not self._unsaved:
                    self._saved.set()
            else:
                self._unsaved = batch | self._unsaved
                self._changed.set()
                await backoff.pause()

    def close(self) -> None:
        """Save what is left, and let go of the file."""
        if self._unsaved:
            self._take_result(self._write(list(self._unsaved.values())))
        self._file.close()

    def _write(self, documents: list[Document]) -> OSError | None:
        """Why the disk does not take them; None when it did."""
        try:
            self._file.save(documents)
        except OSError as error:
            return error
        return None

    def _take_result(self, refused: OSError | None) -> None:
        if refused is None:
            self._readiness.restored(SAVED)
            return
        self.save_errors += 1
        self._readiness.degraded(SAVED, f"not saved, tried again: {refused}")
        log.error("documents not saved", file=repr(self._file), error=str(refused))
