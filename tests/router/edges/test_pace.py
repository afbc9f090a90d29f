"""How often an edge looks for what it has to tell."""

from __future__ import annotations

import asyncio
import contextlib
import random

from faulty_store import FaultyStore
from virtual_loop import run_virtually
from world_edges import WorldEdge
from world_engines import WorldEngine

from pointsman.router.edges.sharing import FLUSH_S, IDLE_FLUSHES

WATCHED_S = 10.0


def test_an_edge_where_nothing_happens_looks_seldom_and_tells_soon() -> None:
    """A few dozen times a second instead of hundreds; what then happens is told before a client could notice."""
    looks, told_after_s = run_virtually(watched())
    assert looks <= 1.1 * WATCHED_S / (IDLE_FLUSHES * FLUSH_S)
    assert told_after_s <= (IDLE_FLUSHES + 1) * FLUSH_S


async def watched() -> tuple[int, float]:
    """Looks of an idle edge, and how long after something happened the store has it."""
    loop, store = asyncio.get_running_loop(), FaultyStore(random.Random(1))
    edge = WorldEdge(
        "e1",
        store=store,
        policy={"policy": "kv_cost"},
        clock=loop.time,
        rng=random.Random(2),
        max_pending=1000,
        stream_bytes=1_000_000,
    )
    edge.sharing._flush_s = FLUSH_S
    looks = 0
    next_batch = edge.protocol.next_batch

    def counted(now_s: float) -> object:
        nonlocal looks
        looks += 1
        return next_batch(now_s)

    edge.protocol.next_batch = counted  # type: ignore[method-assign, assignment]
    sharing = asyncio.create_task(edge.sharing.run())
    await asyncio.sleep(1.0)
    looks = 0
    await asyncio.sleep(WATCHED_S)
    idle_looks = looks
    engine = WorldEngine("r1", port=1, capacity_keys=1, leased=False, reports=False, rng=random.Random(3))
    edge.register(engine)
    happened_s = loop.time()
    while "r1" not in store.replicas:
        await asyncio.sleep(0.001)
    told_after_s = loop.time() - happened_s
    sharing.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await sharing
    return idle_looks, told_after_s
