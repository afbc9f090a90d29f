"""One HAProxy worker, reached over a connection that stays open.

A connection to the Runtime API belongs to the process that accepted it. After a reload the socket's path leads to the
new worker, and the connections made before still lead to the old one, which does not end before they are closed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from pointsman.haproxy.errors import HAProxyError, ProtocolError
from pointsman.haproxy.runtime_api import SETUP, Info, ask, check_answer, connect, parse_info, socket_errors

IDLE_S = 20 * 86_400
"""Seconds for which HAProxy keeps the connection without a command. HAProxy's default of 10 s is meant for people, and
its limit is 31 bits of milliseconds."""

READ_BYTES = 16_384
"""Of a ring at once: some 50 lines, so that applying them holds the event loop for less than a millisecond."""

MAX_LINE_BYTES = 65_536
"""A ring's line has at most its `maxlen`, some kilobytes."""


class WorkerConnection:
    """A connection to the Runtime API of one worker; `open` makes it."""

    def __init__(
        self, address: str, timeout_s: float, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._address = address
        self._timeout_s = timeout_s
        self._reader = reader
        self._writer = writer
        self.pid = 0
        """Process id of the worker."""

    def __repr__(self) -> str:
        return f"WorkerConnection({self._address!r}, pid={self.pid})"

    @classmethod
    async def open(cls, address: str, *, timeout_s: float = 2.0) -> WorkerConnection:
        """A connection to the worker that serves `address` now. Raises HAProxyUnavailable, CommandRefused or
        ProtocolError.

        `address` is `host:port`, `unix@/path` or `/path`; `timeout_s` bounds connecting and each answer.
        """
        with socket_errors(address, timeout_s):
            async with asyncio.timeout(timeout_s):
                reader, writer = await connect(address)
        opened = cls(address, timeout_s, reader, writer)
        try:
            for command in (*SETUP, f"set timeout cli {IDLE_S}"):
                await opened._run(command)
            opened.pid = (await opened.info()).pid
        except BaseException:
            opened.close()
            raise
        return opened

    @property
    def is_open(self) -> bool:
        """Whether neither side has closed it, as far as is known."""
        return not self._reader.at_eof() and not self._writer.is_closing()

    async def info(self) -> Info:
        """Version, age and connections of the worker, and whether it is stopping."""
        return parse_info(await self._run("show info"))

    async def ring(self, name: str) -> AsyncIterator[list[bytes]]:
        """Lines of one of the worker's log rings: those it still holds, oldest first, then each new one. Ends when the
        worker does or the connection is closed; no command can be sent after it."""
        with socket_errors(self._address, self._timeout_s):
            self._writer.write(f"show events {name} -w\n".encode())
            cut = b""
            while data := await self._reader.read(READ_BYTES):
                *lines, cut = (cut + data).split(b"\n")
                if len(cut) > MAX_LINE_BYTES:
                    raise ProtocolError(f"{self._address}: a line of more than {MAX_LINE_BYTES} bytes in ring {name}")
                yield lines

    def close(self) -> None:
        """Lets the worker end."""
        self._writer.close()

    async def _run(self, command: str) -> str:
        try:
            with socket_errors(self._address, self._timeout_s):
                async with asyncio.timeout(self._timeout_s):
                    answer = await ask(self._reader, self._writer, command)
        except HAProxyError:
            self.close()  # a late answer would be taken for that to the next command
            raise
        return check_answer(command, answer)
