"""The live policy on two edges: what is the same on both, what each counts for itself, and two people at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
from router_fixture import client_of, running_router
from valkey_server import running_valkey

REACH_S = 60.0
"""How long a test waits for what must happen; nothing is asserted about time."""


@asynccontextmanager
async def two_edges(tmp_path: Path) -> AsyncIterator[list[httpx.AsyncClient]]:
    async with AsyncExitStack() as stack:
        valkey = await stack.enter_async_context(running_valkey(tmp_path))
        routers = [
            await stack.enter_async_context(running_router(policy={"policy": "least_load"}, shared={"url": valkey.url}))
            for _ in range(2)
        ]
        async with asyncio.timeout(REACH_S):
            while not all(router.sharing is not None and router.sharing.protocol.peers.alive for router in routers):
                await asyncio.sleep(0.01)
        yield [await stack.enter_async_context(client_of(router)) for router in routers]


async def newest(client: httpx.AsyncClient) -> dict[str, Any]:
    revision: dict[str, Any] = (await client.get("/v1/policy/revisions?limit=1")).json()["revisions"][0]
    return revision


async def until_live(client: httpx.AsyncClient, etag: str) -> None:
    async with asyncio.timeout(REACH_S):
        while (await client.get("/v1/policy")).headers["etag"] != etag:
            await asyncio.sleep(0.01)


async def test_document_author_and_reason_reach_the_other_edge_and_numbers_are_its_own(tmp_path: Path) -> None:
    """Equal documents have equal ETags, whatever number each edge gives them."""
    async with two_edges(tmp_path) as (here, there):
        put = {"params": {"why": "a test"}, "headers": {"x-pointsman-author": "ann"}}
        for document in ({"policy": "random"}, {"policy": "round_robin"}):
            answer = await here.put("/v1/policy", json=document, **put)
            await until_live(there, answer.headers["etag"])
        await there.post("/v1/policy/rollback", json={}, headers={"x-pointsman-author": "bob"})
        await until_live(here, (await there.get("/v1/policy")).headers["etag"])
        one, other = await newest(here), await newest(there)
        for revision in (one, other):
            assert (revision["author"], revision["document"]) == ("bob", {"policy": "random"})
            assert revision["why"] == "back to revision 2"
        assert one["etag"] == other["etag"]


async def test_of_two_people_at_two_edges_the_later_is_told_what_is_live(tmp_path: Path) -> None:
    """412 with the ETag that the other one got, though nobody had told this edge when it was asked."""
    async with two_edges(tmp_path) as (here, there):
        seen = (await here.get("/v1/policy")).headers["etag"]
        assert seen == (await there.get("/v1/policy")).headers["etag"]
        answers = await asyncio.gather(
            here.put("/v1/policy", json={"policy": "random"}, headers={"if-match": seen, "x-pointsman-author": "ann"}),
            there.put("/v1/policy", json={"policy": "round_robin"}, headers={"if-match": seen}),
        )
        assert sorted(answer.status_code for answer in answers) == [200, 412]
        won, lost = sorted(answers, key=lambda answer: answer.status_code)
        assert lost.headers["etag"] == won.headers["etag"] in lost.json()["detail"]
        for client in (here, there):
            await until_live(client, won.headers["etag"])
