"""What clients notice when the store or an edge fails: nothing. What operators see: a cause, and agreement again."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from edge import RunningEdge, agree, running_edges, until
from valkey_server import ValkeyProcess, running_valkey

pytestmark = [pytest.mark.e2e, pytest.mark.soak, pytest.mark.timeout(600)]

POLICY = ("--policy", "kv_cost")
CLIENTS = 6


class Load:
    """Clients that talk on, each at its own edge or at all by turns, and what they got."""

    def __init__(self, edges: list[RunningEdge]) -> None:
        self._edges = edges
        self.statuses: Counter[str] = Counter()
        self._tasks: list[asyncio.Task[None]] = []

    async def _talk(self, number: int) -> None:
        turn = 0
        while True:
            edge = self._edges[(number + turn) % len(self._edges)]
            turn += 1
            words = f"client {number} " + " ".join(str(n) for n in range(200 + 40 * (turn % 20)))
            try:
                answer = await edge.chat(words, session=f"s{number}-{turn // 20}")
                self.statuses[str(answer.status_code)] += 1
            except httpx.HTTPError as error:
                self.statuses[type(error).__name__] += 1

    def start(self) -> None:
        self._tasks = [asyncio.create_task(self._talk(number)) for number in range(CLIENTS)]

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def some_more(self, count: int = 40) -> None:
        """Until so many further requests were answered."""
        goal = self.statuses.total() + count

        async def answered() -> bool:
            return self.statuses.total() >= goal

        await until(answered)


@asynccontextmanager
async def under_load(folder: Path, *arguments: str) -> AsyncIterator[tuple[ValkeyProcess, list[RunningEdge], Load]]:
    """Two edges on a Valkey of their own, with clients talking through both."""
    async with (
        running_valkey(folder) as valkey,
        running_edges(2, 3, *POLICY, "--redis", valkey.url, *arguments) as edges,
    ):
        load = Load(edges)
        load.start()
        try:
            await load.some_more()
            yield valkey, edges, load
        finally:
            await load.stop()
        assert load.statuses.keys() == {"200"}, load.statuses


async def sees(edge: RunningEdge, cause: str) -> None:
    """Waits until the edge says, in its metrics and its readiness, why it shares nothing."""

    async def said() -> bool:
        errors = (await edge.metrics())[f'pointsman_shared_store_errors_total{{cause="{cause}"}}']
        ready = await edge.admin.get("/readyz")
        return errors > 0 and ready.status_code == 200 and f"degraded: shared state: {cause}" in ready.text

    await until(said)


async def recovers(edges: list[RunningEdge], load: Load, what: str) -> None:
    """Waits until the edges follow each other again, and then, without load, know the same."""
    started_s = time.monotonic()

    async def in_step(edge: RunningEdge) -> bool:
        metrics = await edge.metrics()
        return metrics["pointsman_shared_store_up"] == 1 and metrics['pointsman_shared_edges{state="in-step"}'] >= 1

    for edge in edges:
        await until(lambda edge=edge: in_step(edge))
    followed_s = time.monotonic() - started_s
    await load.stop()
    await agree(edges)
    print(f"{what}: followed again after {followed_s:.1f} s, agreed after {time.monotonic() - started_s:.1f} s")
    load.start()


async def test_the_store_may_crash_come_back_empty_stop_and_fill_up(tmp_path: Path) -> None:
    """kill -9, an empty restart, ten seconds of SIGSTOP, FLUSHALL, no memory left: no client notices any of it."""
    async with under_load(tmp_path) as (valkey, edges, load):
        await valkey.kill()
        await sees(edges[0], "unreachable")
        await load.some_more()
        await valkey.start()
        await recovers(edges, load, "killed, restarted empty")

        valkey.pause()
        await sees(edges[0], "slow")
        await asyncio.sleep(10)
        await load.some_more()
        valkey.resume()
        await recovers(edges, load, "stopped for ten seconds")

        await valkey.call("FLUSHALL")
        await load.some_more()
        await recovers(edges, load, "emptied")

        await valkey.call("CONFIG", "SET", "maxmemory", 1)
        await sees(edges[0], "full")
        await load.some_more()
        await valkey.call("CONFIG", "SET", "maxmemory", 0)
        await recovers(edges, load, "out of memory")

        await valkey.call("ACL", "SETUSER", "default", "-@write")
        await sees(edges[0], "refused")
        await load.some_more()
        await valkey.call("ACL", "SETUSER", "default", "+@all")
        await recovers(edges, load, "not permitted")
    assert load.statuses["200"] > 200


async def test_an_edge_may_crash_and_stop(tmp_path: Path) -> None:
    """kill -9 of a router: its HAProxy fails open, the other edge stops counting its work, and it comes back warm.
    SIGSTOP of a router for ten seconds: the same, and nothing it held is forgotten."""
    async with under_load(tmp_path) as (_, edges, load):
        a, b = edges
        before = b.router()
        before.kill()

        async def silent() -> bool:
            return (await a.metrics())["pointsman_shared_edges_died_total"] >= 1

        await until(silent)
        await load.some_more()
        await recovers(edges, load, "an edge was killed")
        assert b.router().pid != before.pid

        died = (await a.metrics())["pointsman_shared_edges_died_total"]
        stopped = b.router()
        stopped.suspend()

        async def silent_again() -> bool:
            return (await a.metrics())["pointsman_shared_edges_died_total"] > died

        await until(silent_again)
        await asyncio.sleep(7)
        await load.some_more(10)
        stopped.resume()
        await recovers(edges, load, "an edge was stopped for ten seconds")
        assert b.router().pid == stopped.pid
        assert await b.states() == await a.states() == dict.fromkeys(("sim-1", "sim-2", "sim-3"), "up")
