"""Files that a router writes beside its event loop, where a disk may take longer to sync than a lookup may take."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

import structlog

from pointsman.router.process.readiness import Readiness

T = TypeVar("T")

log = structlog.get_logger(__name__)


async def to_its_end(work: Callable[..., T], *arguments: Any) -> T:
    """Run work in a thread. Who is cancelled meanwhile is so once the work has ended: nothing overtakes it."""
    return await unbroken(asyncio.get_running_loop().run_in_executor(None, partial(work, *arguments)))


async def unbroken(work: Awaitable[T]) -> T:
    """Await work. Who is cancelled meanwhile is so once the work has ended."""
    working = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(working)
    except asyncio.CancelledError:
        await working
        raise


class Aside(Protocol):
    """A file that is renamed where it cannot be read."""

    def set_aside(self) -> Path: ...


class Saving:
    """Writes of one file: whether the disk takes them, for readiness, the log and metrics."""

    def __init__(self, what: str, file: Aside, *, loaded: str, saved: str, readiness: Readiness) -> None:
        """what: the thing that is saved, for the log. loaded, saved: parts that `/readyz` says are degraded."""
        self._what = what
        self._file = file
        self._loaded = loaded
        self._saved = saved
        self._readiness = readiness
        self.errors = 0
        """Writes that the disk did not take."""
        self.set_aside_files = 0
        """Files that could not be read."""

    async def write(self, write: Callable[..., None], *arguments: Any) -> bool:
        """Write beside the event loop; whether the disk took it."""
        return self._took(await to_its_end(_tried, write, *arguments))

    def write_now(self, write: Callable[..., None], *arguments: Any) -> bool:
        """Write at once; whether the disk took it."""
        return self._took(_tried(write, *arguments))

    def set_aside(self, error: Exception) -> None:
        """Rename the file, which cannot be read for this reason: the router starts without it."""
        self.set_aside_files += 1
        try:
            kept = f"it is kept as {self._file.set_aside()}"
        except OSError as refused:
            kept = f"it cannot be set aside: {refused.strerror}"
        self._readiness.degraded(self._loaded, f"started without what was saved; {kept}: {error}")
        log.error(f"{self._loaded} is unreadable, starting without it", error=str(error), kept=kept)

    def _took(self, refused: OSError | None) -> bool:
        if refused is None:
            self._readiness.restored(self._saved)
            return True
        self.errors += 1
        self._readiness.degraded(self._saved, f"not saved, tried again: {refused}")
        log.error(f"{self._what} not saved", file=repr(self._file), error=str(refused))
        return False


def _tried(write: Callable[..., None], *arguments: Any) -> OSError | None:
    """Why the disk does not take something; None where it does."""
    try:
        write(*arguments)
    except OSError as error:
        return error
    return None
