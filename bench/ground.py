"""A running edge as a scene plays on it: clients of both its doors, and the means to harm it.

`bench.failover`, `bench.faults` and `bench.survival` play on one.
"""

from __future__ import annotations

import asyncio
import os
import socket
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from bench.edge import PATH
from bench.peers import PeerError, Side, edge, replica_states, until

LIE_SENT_BYTES = 200_000
"""Of a body that is announced and not sent whole: more than HAProxy's buffer, so that it is routed."""

REQUESTS = 96
RECOVER_S = 30.0
POLL_S = 0.02


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
        """Return when (`time.perf_counter`) it held. Raises PeerError."""
        return await until(holds, what, within_s=within_s, poll_s=POLL_S)

    async def states(self) -> dict[str, str]:
        """States of the replicas by id."""
        return await replica_states(self.admin)


@asynccontextmanager
async def ground(
    *, replicas: int = 4, engine: dict[str, Any] | None = None, lookup: str = "spoe", **sections: dict[str, Any]
) -> AsyncIterator[Ground]:
    """One edge with fast simulated replicas, or as the sections of its file say."""
    with tempfile.TemporaryDirectory(prefix="pm-") as name:
        folder = Path(name)
        config = folder / "up.yaml"
        config.write_text(yaml.safe_dump({"engine": engine or {"timing": "fast"}, **sections}))
        limits = httpx.Limits(max_connections=2000)
        async with (
            edge("edge", folder, lookup=lookup, up=["--replicas", str(replicas), "--config", str(config)]) as side,
            httpx.AsyncClient(
                base_url=f"http://127.0.0.1:{side.port}", timeout=30.0, trust_env=False, limits=limits
            ) as client,
            httpx.AsyncClient(base_url=side.admin_url, timeout=10.0, trust_env=False) as admin,
        ):
            yield Ground(side, folder, client, admin)
