"""Digests: equal where the same is known, and made while lookups go on."""

from __future__ import annotations

import asyncio

from pointsman.router.documents.book import Book
from pointsman.router.edges.digest import ITEMS_AT_ONCE, digests
from pointsman.router.fleet.replicas import ReplicaRegistry
from pointsman.router.fleet.sessions import SessionTable
from pointsman.router.kv.state import KVState


async def test_lookups_have_their_turn_while_sessions_are_summed_up() -> None:
    """What they change meanwhile is not in it; the order in which sessions came does not count."""
    sessions, twin, kv, replicas = SessionTable(), SessionTable(), KVState(), ReplicaRegistry()
    names = [f"s{number}" for number in range(3 * ITEMS_AT_ONCE)]
    for name in names:
        sessions.pin(name, "r1", 0.0)
    for name in reversed(names):
        twin.pin(name, "r1", 0.0)
    summing = asyncio.create_task(digests(replicas, sessions, kv, {}, Book()))
    turns = 0
    while not summing.done():
        await asyncio.sleep(0)
        sessions.pin(f"late{turns}", "r2", 1.0)
        turns += 1
    assert turns > 3
    assert await summing == await digests(replicas, twin, kv, {}, Book())
