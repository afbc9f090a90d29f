"""The real HAProxy under a low limit of open files: an edge that is full keeps its replicas."""

from __future__ import annotations

import asyncio
import resource
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from haproxy_fixture import Edge, Received, running_edge

from pointsman.contract import child_process
from pointsman.haproxy import process

pytestmark = pytest.mark.e2e

OPEN_FILES = 256
STREAMS = 60
CLIENTS = 200
"""With the streams, more than three times as many as fit."""

REQUESTS = 1200


def limit_open_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """HAProxy starts as if by a shell with `ulimit -n 256`."""
    before_exec = child_process.die_with_parent

    def limited(parent: int) -> Callable[[], None]:
        ask = before_exec(parent)

        def set_limit() -> None:
            ask()
            resource.setrlimit(resource.RLIMIT_NOFILE, (OPEN_FILES, OPEN_FILES))

        return set_limit

    monkeypatch.setattr(child_process, "die_with_parent", limited)
    monkeypatch.setattr(process, "open_files_limit", lambda: OPEN_FILES)


async def test_running_out_of_descriptors_takes_no_replica_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """60 streams and 200 clients that come back at once: all are served, in turn, and no replica is ever down.

    The servers are added at run time: HAProxy's own reckoning leaves them no descriptor.
    """
    limit_open_files(monkeypatch)
    may_end = asyncio.Event()

    async def answer(received: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n")
        await writer.drain()
        await (may_end.wait() if received.header("x-stream") else asyncio.sleep(0.02))
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        return True

    async with running_edge(tmp_path, replicas=4, servers=()) as edge:
        await edge.reconciler.step({replica.name: replica.desired for replica in edge.replicas.values()})
        await edge.servers_are("up", *edge.replicas)
        names = list(edge.replicas)
        edge.router.answer = lambda _: {
            "first": names[len(edge.router.asked) % 4],
            "second": names[(len(edge.router.asked) + 1) % 4],
            "reason": "least-loaded",
        }
        for replica in edge.replicas.values():
            replica.on_request = answer
        # All at once: a lookup for each, and a connection for each lookup where HAProxy is left to itself.
        streams = await asyncio.gather(*(begin_stream(edge) for _ in range(STREAMS)))
        answers: Counter[tuple[int, str]] = Counter()

        async def client() -> None:
            while answers.total() < REQUESTS:
                got = await edge.ask()
                answers[got.status, got.reason] += 1

        await asyncio.gather(*(client() for _ in range(CLIENTS)))
        assert set(answers) == {(200, "least-loaded")}
        assert "is DOWN" not in (log := edge.process.log_file.read_text())
        assert "not enough free sockets" not in log
        may_end.set()
        for reader, writer in streams:
            assert (await reader.readuntil(b"0\r\n\r\n")).endswith(b"1\r\nx\r\n0\r\n\r\n")
            writer.close()


async def begin_stream(edge: Edge) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A stream whose answer has begun."""
    reader, writer = await asyncio.open_connection("127.0.0.1", edge.port)
    writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: edge\r\nx-stream: 1\r\nContent-Length: 2\r\n\r\n{}")
    await reader.readuntil(b"\r\n\r\n")
    return reader, writer
