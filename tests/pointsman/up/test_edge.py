"""The watch over one edge's HAProxy: it is started again whatever refuses it, and ended when it hangs."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from pointsman.haproxy.binary import Binary
from pointsman.haproxy.errors import ProcessError
from pointsman.up import edge as module
from pointsman.up.edge import HUNG_PROBES, Edge
from pointsman.up.plan import UpOptions, plan_edges


class StubHAProxy:
    """A HAProxy that ends, refuses to start and hangs when it is told to."""

    def __init__(self) -> None:
        self.starts = 0
        self.refusals: list[Exception] = []
        self.fallback = ""
        self.hangs = False
        self.ended: asyncio.Queue[int] = asyncio.Queue()
        self.killed = asyncio.Event()

    async def start(self) -> None:
        self.starts += 1
        if self.starts > 1 and self.refusals:
            raise self.refusals.pop(0)

    async def wait(self) -> int:
        return await self.ended.get()

    async def answers(self) -> bool:
        return not self.hangs

    async def stop(self, drain_s: float) -> None:
        """Nothing to drain."""

    def kill(self) -> None:
        self.hangs = False
        self.killed.set()
        self.ended.put_nowait(-9)


@asynccontextmanager
async def running_edge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Edge, StubHAProxy, list[str]]]:
    """An edge whose HAProxy is a stub, and what it says."""
    stub, said = StubHAProxy(), list[str]()
    monkeypatch.setattr(module, "HAProxyProcess", lambda *_, **__: stub)
    monkeypatch.setattr(module, "MIN_BACKOFF_S", 0.001)
    monkeypatch.setattr(module, "PROBE_S", 0.001)
    options = UpOptions(listen="127.0.0.1:0", admin="127.0.0.1:0", run_dir=tmp_path / "r")
    (planned,) = plan_edges(options)
    edge = Edge(planned, Binary("/no/haproxy", "2.8.25"), said.append)
    await edge.start_haproxy()
    try:
        yield edge, stub, said
    finally:
        await edge.stop_haproxy()
        planned.folder.release(failed=False)


async def until_said(said: list[str], words: str) -> None:
    async with asyncio.timeout(20):
        while not any(words in line for line in said):
            await asyncio.sleep(0.001)


async def test_haproxy_is_started_until_it_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever refuses it: a full disk, no descriptor, HAProxy itself, an error of our own."""
    async with running_edge(tmp_path, monkeypatch) as (edge, stub, said):
        stub.refusals = [
            OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
            OSError(errno.EMFILE, os.strerror(errno.EMFILE)),
            ProcessError("HAProxy ended with code 1"),
        ]
        stub.ended.put_nowait(-9)
        async with asyncio.timeout(20):
            while stub.starts < 5:
                await asyncio.sleep(0.001)
        assert said == [
            "HAProxy was killed by SIGKILL, starts again",
            "HAProxy did not start: [Errno 28] No space left on device; tried again in 0.001 s",
            "HAProxy did not start: [Errno 24] Too many open files; tried again in 0.002 s",
            "HAProxy did not start: HAProxy ended with code 1; tried again in 0.004 s",
        ]
        assert edge.restarts == 1


async def test_a_watch_that_meets_a_programming_error_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said, and the next end of HAProxy is followed by a start all the same."""
    async with running_edge(tmp_path, monkeypatch) as (_, stub, said):
        stub.refusals = [ZeroDivisionError("oops")]
        stub.ended.put_nowait(1)
        await until_said(said, "watching HAProxy failed (ZeroDivisionError: oops)")
        stub.ended.put_nowait(1)
        async with asyncio.timeout(20):
            while stub.starts < 3:
                await asyncio.sleep(0.001)


async def test_files_that_are_not_the_newest_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An operator learns that what was changed since is not in force."""
    async with running_edge(tmp_path, monkeypatch) as (_, stub, said):
        stub.fallback = "No space left on device"
        stub.ended.put_nowait(-9)
        await until_said(said, "HAProxy runs with the files checked last")


async def test_a_haproxy_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After some looks in a row without an answer; then it is started again like one that died."""
    async with running_edge(tmp_path, monkeypatch) as (_, stub, said):
        await asyncio.sleep(0.02)
        assert not stub.killed.is_set()
        stub.hangs = True
        async with asyncio.timeout(20):
            await stub.killed.wait()
        await until_said(said, "was killed by SIGKILL, starts again")
        assert said[0] == f"HAProxy has not answered {HUNG_PROBES} times in a row, and is ended"


async def test_a_state_that_cannot_be_read_keeps_no_haproxy_from_starting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It starts without servers, which the router adds."""
    async with running_edge(tmp_path, monkeypatch) as (edge, _, said):
        edge.plan.state_file.write_text("{")
        assert edge._edge_config().servers == ()
        assert "HAProxy starts without servers" in said[0]
