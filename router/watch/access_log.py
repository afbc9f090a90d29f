"""The access log: one JSON line for each request when it ends, in a file or on standard output.

`AccessLog` owns the file and the lines that wait for it. Lines are written together, beside the event loop: a disk may
take longer than a lookup may. What always holds: lines that wait take at most `MAX_WAITING_BYTES`; where the disk is
slower than the traffic, lines are dropped and counted, and no request waits. A file that was moved away (by logrotate)
is opened anew with the next lines.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import structlog

MAX_WAITING_BYTES = 8 * 1024 * 1024
"""Lines that wait for the disk: some 10,000."""

STANDARD_OUTPUT = "-"

log = structlog.get_logger(__name__)


class AccessLog:
    """The writer of one access log."""

    def __init__(self, path: str) -> None:
        """path: of the file; `-` for standard output."""
        self._path = path
        self._file = -1
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self.lines = 0
        """Lines written."""
        self.dropped = 0
        """Lines lost, because the disk was slower than the traffic or did not take them."""
        self._failing = False

    def __repr__(self) -> str:
        return f"AccessLog({self._path}, {self.lines} lines)"

    def add(self, line: bytes) -> None:
        """Take a line, without its line feed."""
        if self._waiting_bytes + len(line) > MAX_WAITING_BYTES:
            self.dropped += 1
            return
        self._waiting.append(line)
        self._waiting_bytes += len(line)

    async def flush(self) -> None:
        """Write what waits. Lines that the disk does not take are lost, and counted."""
        if not self._waiting:
            return
        lines, self._waiting, self._waiting_bytes = self._waiting, [], 0
        writing = asyncio.get_running_loop().run_in_executor(None, self._write, b"\n".join([*lines, b""]))
        refused = await asyncio.shield(writing)
        if refused is None:
            self.lines += len(lines)
        else:
            self.dropped += len(lines)
        if (refused is not None) != self._failing:
            self._failing = refused is not None
            if refused is None:
                log.info("access log is written again", path=self._path)
            else:
                log.error("access log is not written, lines are lost", path=self._path, error=str(refused))

    def close(self) -> None:
        """Write what waits, at once, and close the file."""
        if self._waiting:
            self._write(b"\n".join([*self._waiting, b""]))
            self._waiting, self._waiting_bytes = [], 0
        if self._file > 2:
            os.close(self._file)
        self._file = -1

    def _write(self, text: bytes) -> OSError | None:
        """Why the text was not written; None when it was. Runs beside the event loop."""
        try:
            self._open()
            while text:
                text = text[os.write(self._file, text) :]
        except OSError as error:
            return error
        return None

    def _open(self) -> None:
        """Open the file, anew where another one, or none, is at its path."""
        if self._path == STANDARD_OUTPUT:
            self._file = 1
            return
        if self._file >= 0:
            try:
                if os.path.samestat(Path(self._path).stat(), os.fstat(self._file)):
                    return
            except FileNotFoundError:
                pass
            os.close(self._file)
            self._file = -1
        Path(self._path).parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
