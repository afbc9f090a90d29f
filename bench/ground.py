"""A running edge as a scene plays on it: clients of both its doors, and the means to harm it."""

from __future__ import annotations

import asyncio
import os
import socket
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from bench.edge import PATH
from bench.peers import PeerError, Side, edge

LIE_SENT_BYTES = 200_000
"""Of a body that is announced and not sent whole: more than HAProxy's buffer, so that it is routed."""

REQUESTS = 96
RECOVER_S = 30.0
POLL_S = 0.1


@dataclass
class Ground:
    """A running edge, and clients of both its doors."""

    side: Side
    folder: Path
    client: httpx.AsyncClient
    admin: httpx.AsyncClient

    async def chat(self, **headers: str) -> httpx.Response:
        body = {"model": "sim", "max_tokens": 4, "messages": [{"role": "user", "content": os.urandom(200).hex()}]}
        return await self.client.post(PATH, json=body, headers=headers)

    async def many(self, count: int = REQUESTS) -> list[httpx.Response]:
        """Honest requests, eight at a time."""
        gate = asyncio.Semaphore(8)

        async def one() -> httpx.Response:
            async with gate:
                return await self.chat()

        return await asyncio.gather(*(one() for _ in range(count)))

    async def metric(self, name: str) -> float:
        """The sum of all series of a metric."""
        lines = (await self.admin.get("/metrics")).text.splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith((f"{name} ", f"{name}{{")))

    def lie(self, announced: int) -> socket.socket:
        """A connection that announces a body it does not send."""
        lying = socket.create_connection(("127.0.0.1", self.side.port))
        head = (
            f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {announced}\r\n\r\n"
        )
        lying.sendall(head.encode() + b'{"model": "sim", "messages": [{"role": "user", "content": "')
        lying.sendall(b"x" * LIE_SENT_BYTES)
        return lying

    def pid(self, words: str) -> int:
        """The process of this edge whose command line holds these words. Raises PeerError."""
        for process in self.side.processes.members():
            if words in f"{process.command} ":
                return process.pid
        raise PeerError(f"no process of the edge is called {words!r}")

    async def until(self, what: str, holds: Callable[[], Awaitable[bool]], within_s: float = RECOVER_S) -> float:
        """Seconds until it holds. Raises PeerError."""
        began_s = time.perf_counter()
        while time.perf_counter() - began_s < within_s:
            try:
                if await holds():
                    return time.perf_counter() - began_s
            except httpx.HTTPError:
                pass
            await asyncio.sleep(POLL_S)
        raise PeerError(f"{what}: not within {within_s:g} s")


@asynccontextmanager
async def ground(
    *arguments: str, engine: dict[str, Any] | None = None, **sections: dict[str, Any]
) -> AsyncIterator[Ground]:
    """One edge with four fast simulated replicas, or as the sections of its file say."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pm-")))
        config = folder / "up.yaml"
        config.write_text(yaml.safe_dump({"engine": engine or {"timing": "fast"}, **sections}))
        side = await stack.enter_async_context(
            edge("edge", folder, up=["--replicas", "4", "--config", str(config), *arguments])
        )
        limits = httpx.Limits(max_connections=2000)
        client = await stack.enter_async_context(
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{side.port}", timeout=30.0, trust_env=False, limits=limits)
        )
        admin = await stack.enter_async_context(
            httpx.AsyncClient(base_url=side.admin_url, timeout=10.0, trust_env=False)
        )
        yield Ground(side, folder, client, admin)
