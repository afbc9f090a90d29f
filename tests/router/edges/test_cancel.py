"""An edge that is told to leave leaves, also where a call to its store swallowed the word."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from pointsman.router.core import Core
from pointsman.router.edges.build import join
from pointsman.router.edges.records import EdgeInfo
from pointsman.router.edges.sharing import Sharing
from pointsman.router.edges.store import Entry, Kept, Roster
from pointsman.router.process.readiness import Readiness

CALLS = ("open", "append", "read")


class DeafStore:
    """A store of which one call is under way when it is cancelled, and succeeds all the same."""

    def __init__(self, deaf: str) -> None:
        self._deaf = deaf
        self.called = asyncio.Event()
        self.closed = False

    async def _call(self, name: str) -> None:
        await asyncio.sleep(0)
        if name == self._deaf and not self.called.is_set():
            self.called.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                return

    async def open(self) -> Kept:
        await self._call("open")
        return Kept([], [])

    async def append(self, *_: Any, **__: Any) -> Roster | None:
        await self._call("append")
        return None

    async def read(self, following: Mapping[str, int], block_s: float) -> list[Entry]:
        await self._call("read")
        return []

    async def drop_history(self, edge: str, before: int) -> None: ...

    async def claim(self, document: object) -> bool:
        return True

    async def forget(self, edges: Sequence[str]) -> None: ...

    async def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize("call", CALLS)
async def test_an_edge_leaves_where_a_call_swallows_its_cancellation(call: str) -> None:
    """CPython issue 86296: `asyncio.wait_for` of Python 3.11 may return a result instead."""
    store = DeafStore(call)
    protocol = join(Core({"policy": "least_load"}, rng=random.Random(1)), "e1", documents={})
    protocol.peers.meet([EdgeInfo(edge="e1"), EdgeInfo(edge="e2")], 0.0)
    clock = asyncio.get_running_loop().time
    sharing = Sharing(protocol, store, info=EdgeInfo(edge="e1"), readiness=Readiness(), clock=clock)
    running = asyncio.create_task(sharing.run())
    async with asyncio.timeout(30):
        await store.called.wait()
        running.cancel()
        await asyncio.wait([running])
    assert running.cancelled() and store.closed
