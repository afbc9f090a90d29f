"""A simulated replica in the test's own event loop, and a client that shows raw bytes."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import httpx

from pointsman.engine.sim.config import SimConfig
from pointsman.engine.sim.server import SimServer


@asynccontextmanager
async def replica(**settings: Any) -> AsyncIterator[SimServer]:
    """A started replica whose steps cost nothing, unless told otherwise."""
    async with SimServer(SimConfig(**{"timing": "fast", **settings})) as server:
        yield server


@asynccontextmanager
async def client_of(server: SimServer) -> AsyncIterator[httpx.AsyncClient]:
    """An HTTP client of a replica."""
    async with httpx.AsyncClient(base_url=server.url, timeout=30, trust_env=False) as client:
        yield client


@asynccontextmanager
async def connection_to(
    server: SimServer, *, receive_bytes: int | None = None
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A bare TCP connection; `receive_bytes` bounds what the kernel takes in for a client that does not read."""
    sock = socket.socket()
    if receive_bytes is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", server.port))
    reader, writer = await asyncio.open_connection(sock=sock)
    try:
        yield reader, writer
    finally:
        writer.close()
        with suppress(ConnectionError):  # the replica may have reset it
            await writer.wait_closed()


def chat_body(content: object = "hello", **fields: Any) -> dict[str, Any]:
    """A chat completion request."""
    return {"model": "sim", "messages": [{"role": "user", "content": content}], **fields}


def post(path: str, body: bytes | dict[str, Any], *headers: str) -> bytes:
    """A request as bytes."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"POST {path} HTTP/1.1", "host: sim", "content-type: application/json", f"content-length: {len(data)}"]
    return "\r\n".join([*lines, *headers, "", ""]).encode() + data


def events_of(text: str) -> list[Any]:
    """The data of server-sent events, decoded; `[DONE]` stays a string."""
    events = []
    for block in text.split("\n\n"):
        for line in block.splitlines():
            if line.startswith("data: "):
                data = line.removeprefix("data: ")
                events.append(data if data == "[DONE]" else json.loads(data))
    return events


async def read_head(reader: asyncio.StreamReader) -> bytes:
    """One response head, from its status line to the empty line."""
    return await reader.readuntil(b"\r\n\r\n")


async def read_response(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """Head and body of one response that announces its length."""
    head = await read_head(reader)
    (length,) = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    return head, await reader.readexactly(int(length.partition(b":")[2]))


async def read_chunks(reader: asyncio.StreamReader) -> list[bytes]:
    """The HTTP chunks of one chunked body, without the last, empty one."""
    chunks = []
    while True:
        size = int(await reader.readline(), 16)
        data = await reader.readexactly(size + 2)
        assert data.endswith(b"\r\n")
        if not size:
            return chunks
        chunks.append(data[:-2])
