"""The file of named tokens, as it is at this moment.

`TokenFile` reads the file at the start and again within `LOOK_EVERY_S` of a change, so that a token comes, goes or gets
another role without a restart, and no connection is closed for it. A file that cannot be used keeps the tokens that
were read last, is counted, logged once and shown by readiness: an edge that forgot all tokens because of a comma would
answer nobody who could mend it.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import structlog

from pointsman.contract.config import decode, read_mapping
from pointsman.contract.tokens import TokenList, TokenRecord, hash_token
from pointsman.router.errors import SettingsError
from pointsman.router.process.readiness import Readiness

LOOK_EVERY_S = 0.5
"""Between two looks at the file, one system call each: a change counts within a second."""

MAX_FILE_BYTES = 4 * 1024 * 1024
"""Bytes of the file: 10,000 tokens of some 200 bytes, twice."""

PART = "admin tokens"
"""Name of the file in `/readyz`."""

log = structlog.get_logger(__name__)

Version = tuple[int, int, int]
"""Inode, time and size of a file: another one after every kind of replacement, by rename and by symbolic link too."""


class TokenFile:
    """Named tokens of one file, by the hash of each."""

    def __init__(self, path: Path, *, readiness: Readiness) -> None:
        self._path = path
        self._readiness = readiness
        self._by_hash: dict[str, TokenRecord] = {}
        self._seen: Version | None = None
        self.errors = 0
        """Times that a changed file could not be used."""

    def __len__(self) -> int:
        return len(self._by_hash)

    def __repr__(self) -> str:
        return f"TokenFile({self._path}, {len(self)} tokens)"

    def find(self, token: str, now_s: float) -> TokenRecord | None:
        """The record of a token that is listed and has not expired. `now_s` is in seconds since 1970.

        The hash of a guess tells nothing about how near the guess was, so a look into a table is as good as a
        comparison in constant time.
        """
        record = self._by_hash.get(hash_token(token))
        if record is None or (record.expires is not None and record.expires.timestamp() <= now_s):
            return None
        return record

    def load(self) -> None:
        """Read the file. Raises SettingsError when it cannot be used."""
        self._seen = self._version()
        records = self._read()
        self._by_hash = {record.sha256: record for record in records}

    def look(self) -> None:
        """Read the file again if it changed."""
        version = self._version()
        if version == self._seen:
            return
        try:
            self.load()
        except SettingsError as error:
            self._seen = version
            self.errors += 1
            self._readiness.degraded(PART, f"the tokens read last are in use: {error}")
            log.error("token file not used, the tokens read last are in use", error=str(error), tokens=len(self))
            return
        self._readiness.restored(PART)
        log.info("tokens read", file=str(self._path), tokens=len(self))

    async def run(self) -> None:
        """Look for changes until cancelled."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            self.look()

    def _version(self) -> Version | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size

    def _read(self) -> list[TokenRecord]:
        source = str(self._path)
        if self._seen is not None and self._seen[2] > MAX_FILE_BYTES:
            raise SettingsError("", None, f"at most {MAX_FILE_BYTES} bytes", f"has {self._seen[2]} bytes", source)
        document = read_mapping(self._path, source, error=SettingsError)
        return decode(document, TokenList, source=source, error=SettingsError).tokens
