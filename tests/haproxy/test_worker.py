"""A connection that stays with one worker: it is set up, asked, and made to read a ring."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from pointsman.haproxy.errors import CommandRefused, HAProxyUnavailable, ProtocolError
from pointsman.haproxy.worker import IDLE_S, MAX_LINE_BYTES, READ_BYTES, WorkerConnection

INFO = "Name: HAProxy\nVersion: 2.8.25\nPid: 7\nUptime_sec: 1\nCurrConns: 2\nStopping: 1"

Ring = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def silence(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A ring without a line."""


class Worker:
    """A Runtime API as one worker speaks it; `ring` writes what `show events` shows."""

    def __init__(self, ring: Ring = silence, **answers: str) -> None:
        self.commands: list[str] = []
        self.hangs = False
        self._answers = {"show info": INFO} | answers
        self._ring = ring

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := (await reader.readline()).decode().strip():
                self.commands.append(line)
                if self.hangs:
                    await reader.read()
                    return
                if line.startswith("show events"):
                    await self._ring(reader, writer)
                    return
                writer.write(f"{self._answers.get(line, '')}\n> ".encode())
        except OSError:
            pass  # the client left
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()


@asynccontextmanager
async def connected(folder: Path, worker: Worker, timeout_s: float = 2.0) -> AsyncIterator[WorkerConnection]:
    path = folder / "s"
    server = await asyncio.start_unix_server(worker.serve, str(path))
    try:
        connection = await WorkerConnection.open(str(path), timeout_s=timeout_s)
        try:
            yield connection
        finally:
            connection.close()
    finally:
        server.close()


async def test_a_connection_knows_its_worker_and_is_kept_open(tmp_path: Path) -> None:
    """HAProxy is asked not to close it for want of commands."""
    worker = Worker()
    async with connected(tmp_path, worker) as connection:
        assert connection.pid == 7 and connection.is_open
        info = await connection.info()
        assert (info.connections, info.stopping) == (2, True)
    assert f"set timeout cli {IDLE_S}" in worker.commands


async def test_lines_come_whole_however_they_were_cut(tmp_path: Path) -> None:
    """Empty ones too: what they are is the reader's to know."""
    lines = [b"", b'{"a":1}', b"x" * (READ_BYTES + 5), b'{"b":2}']

    async def ring(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for byte in (text := b"\n".join(lines) + b"\n")[:20]:
            writer.write(bytes((byte,)))
            await writer.drain()
            await asyncio.sleep(0)
        writer.write(text[20:])
        await writer.drain()

    worker = Worker(ring)
    async with connected(tmp_path, worker) as connection:
        got = [line async for batch in connection.ring("events") for line in batch]
        assert got == lines and not connection.is_open
    assert worker.commands[-1] == "show events events -w"


async def test_an_endless_line_is_a_protocol_error(tmp_path: Path) -> None:
    """Memory is bounded whatever answers."""

    async def ring(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"x" * (MAX_LINE_BYTES + READ_BYTES))
        await reader.read()

    async with connected(tmp_path, Worker(ring)) as connection:
        with pytest.raises(ProtocolError, match="a line of more than"):
            async for _ in connection.ring("events"):
                pass


async def test_an_answer_that_is_late_closes_the_connection(tmp_path: Path) -> None:
    """It would be taken for the answer to the next command."""
    worker = Worker()
    async with connected(tmp_path, worker, timeout_s=0.05) as connection:
        worker.hangs = True
        with pytest.raises(HAProxyUnavailable, match="no answer within"):
            await connection.info()
        assert not connection.is_open


async def test_nobody_listens(tmp_path: Path) -> None:
    """HAProxy is not running."""
    with pytest.raises(HAProxyUnavailable):
        await WorkerConnection.open(str(tmp_path / "s"))


async def test_a_socket_of_a_lower_level_is_refused_in_haproxys_words(tmp_path: Path) -> None:
    """Its end is not ours to guess at."""
    with pytest.raises(CommandRefused, match="Permission denied"):
        async with connected(tmp_path, Worker(**{f"set timeout cli {IDLE_S}": "[6]: Permission denied"})):
            pass
