"""Loops that keep what people write about the fleet's shares: on disk, and in HAProxy's map of API keys."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path

from pointsman.haproxy.runtime_api import RuntimeAPI
from pointsman.router.core import Core
from pointsman.router.documents.file import DocumentFile
from pointsman.router.process.background import BackgroundTasks
from pointsman.router.process.clock import Clock
from pointsman.router.process.readiness import Readiness
from pointsman.router.settings import Settings
from pointsman.router.watch.book_keeper import BookKeeper
from pointsman.router.watch.key_map import KeySync


class TenancyLoops:
    """The file of documents, and the map of keys; each None where the settings name none."""

    def __init__(self, settings: Settings, core: Core, *, readiness: Readiness, wall: Clock) -> None:
        self.file: BookKeeper | None = None
        if settings.documents_file:
            self.file = BookKeeper(core.book, DocumentFile(Path(settings.documents_file)), readiness=readiness)
        self.keys: KeySync | None = None
        if settings.edge.admin_socket:
            api = RuntimeAPI(settings.edge.admin_socket)
            self.keys = KeySync(core.keys, api, file=settings.edge.keys_file, readiness=readiness, wall=wall)

    def start(self, stack: AsyncExitStack, tasks: BackgroundTasks) -> None:
        """Read the file, and keep both until the stack ends."""
        if self.file is not None:
            self.file.load()
            stack.callback(self.file.close)
            tasks.start(stack, "save documents", self.file.run)
        if self.keys is not None:
            tasks.start(stack, "API keys", self.keys.run)

    async def settled(self) -> bool:
        """Wait, not for long, until what was written so far is on disk, and in force at this edge's HAProxy; whether
        that one requires API keys."""
        if self.file is not None:
            await self.file.saved()
        required = self.keys is not None and self.keys.required
        if self.keys is not None and required:
            await self.keys.settled()
        return required
