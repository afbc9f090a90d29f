"""Files that take effect again when they change, without a restart: tokens, a certificate.

`WatchedFiles` looks at its files twice a second and has them read when one changed. What was read last stays in effect
while the files cannot be used; that is counted, logged, and shown by readiness, since an edge that forgot all tokens
because of a comma would answer nobody who could mend it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import structlog

from pointsman.router.errors import SettingsError
from pointsman.router.process.readiness import Readiness

LOOK_EVERY_S = 0.5
"""Between two looks, one system call a file each: a change counts within a second."""

log = structlog.get_logger(__name__)

Version = tuple[int, int, int]
"""Inode, time and size of a file: another one after every kind of replacement, by rename and by symbolic link too."""


class WatchedFiles:
    """Files that are read together."""

    def __init__(self, part: str, *paths: Path, read: Callable[[], None], readiness: Readiness) -> None:
        """part: name in logs and in `/readyz`.
        read: takes what the files say now. Raises SettingsError, and leaves everything as it was."""
        self.part = part
        self._paths = paths
        self._read = read
        self._readiness = readiness
        self._seen: list[Version | None] = []
        self.errors = 0
        """Times that changed files could not be used."""

    def __repr__(self) -> str:
        return f"WatchedFiles({self.part}, {', '.join(map(str, self._paths))})"

    def load(self) -> None:
        """Read the files for the first time. Raises SettingsError when they cannot be used."""
        self._seen = self._versions()
        self._read()

    def look(self) -> None:
        """Read the files again if one of them changed."""
        versions = self._versions()
        if versions == self._seen:
            return
        self._seen = versions
        try:
            self._read()
        except SettingsError as error:
            self.errors += 1
            self._readiness.degraded(self.part, f"what was read last is in use: {error}")
            log.error("changed file not used, what was read last is in use", part=self.part, error=str(error))
        else:
            self._readiness.restored(self.part)
            log.info("changed file read", part=self.part)

    async def run(self) -> None:
        """Look for changes until cancelled."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            self.look()

    def _versions(self) -> list[Version | None]:
        return [_version(path) for path in self._paths]


def _version(path: Path) -> Version | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
