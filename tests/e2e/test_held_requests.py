"""Session admission through a whole edge: conversations that begin wait for room at the real HAProxy."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from edge import RunningEdge, running_up, until

from pointsman.router.kv.idle_timeout import DOUBTFUL

pytestmark = [pytest.mark.e2e, pytest.mark.system]

ENGINE = {"timing": "dense-h100", "mean_output_tokens": 0, "kv_tokens": 8192}
LONG_S = 60.0
ENDS_S = 5.0
"""How long a conversation is silent until it is over, where the test waits for that."""


def policy(wait_s: float) -> dict[str, Any]:
    """Half of the KV may be in live use: 4,096 tokens, and `full` has over 3,000."""
    return {"policy": "kv_cost", "admission": {"limit": 0.5, "wait_s": wait_s, "retry_after_s": 3}}


def words(label: str, count: int = 1200) -> str:
    return " ".join(f"{label}-{number}" for number in range(count))


async def held(edge: RunningEdge) -> float:
    return (await edge.metrics())["pointsman_held"]


async def outcomes(edge: RunningEdge, outcome: str) -> float:
    return (await edge.metrics())[f'pointsman_holds_total{{outcome="{outcome}"}}']


async def hold(edge: RunningEdge, label: str) -> asyncio.Task[httpx.Response]:
    """A conversation that begins, and waits."""
    before = await held(edge)
    asking = asyncio.create_task(edge.chat(words(label), session=label))

    async def waits() -> bool:
        assert not asking.done(), asking.result().text
        return await held(edge) == before + 1

    await until(waits)
    return asking


async def talk(edge: RunningEdge) -> None:
    """Twice as many turns of a conversation as the router wants to see before it holds anybody back for a silent one: a
    turn whose lookup it reads before the end of the turn before shows no pause."""
    for _ in range(2 * DOUBTFUL):
        assert (await edge.chat(words("talk", 150), session="talkative", max_tokens=1)).status_code == 200


async def until_full(edge: RunningEdge) -> None:
    """Waits until the router would hold a conversation back."""

    async def has_no_room() -> bool:
        asked = {"session": "new", "body_bytes": 4 * 3000}
        decision = (await edge.admin.post("/v1/explain", json=asked)).json()["decision"]
        return bool(decision["reason"] == "admission")

    await until(has_no_room)


@asynccontextmanager
async def full_edge(wait_s: float = LONG_S, *arguments: str, **router: Any) -> AsyncIterator[RunningEdge]:
    """An edge with one replica, whose KV one live conversation has all that may be had of."""
    async with running_up(1, *arguments, engine=ENGINE, router={"policy": policy(wait_s), **router}) as edge:
        await talk(edge)
        answer = await edge.chat(words("full"), session="full")
        assert answer.status_code == 200, answer.text
        await until_full(edge)
        yield edge


@pytest.mark.parametrize("lookup", ["spoe", "lua"])
async def test_held_requests_are_served_when_a_conversation_ends(lookup: str) -> None:
    """First come first served; a later turn of a conversation that lives does not wait with them."""
    limits = {"conversation_ttl_s": ENDS_S}
    async with full_edge(LONG_S, "--lookup", lookup, limits=limits) as edge:
        first = await hold(edge, "first")
        assert (await edge.chat(words("full") + " go on", session="full")).status_code == 200
        second = asyncio.create_task(edge.chat(words("second"), session="second"))
        answers = [await first, await second]
        assert [answer.status_code for answer in answers] == [200, 200]
        assert {answer.headers["x-pointsman-reason"] for answer in answers} <= {"kv-cold", "kv-prefix"}
        assert await outcomes(edge, "admitted") == 2
        assert (await edge.metrics())["pointsman_ring_malformed_lines_total"] == 0
        await until(edge.idle)


async def behind_one_that_left(edge: RunningEdge, *, http2: bool) -> asyncio.Task[httpx.Response]:
    """A conversation that waits behind another one, whose client has just left."""

    async def one_is_held() -> bool:
        return await held(edge) == 1

    async with httpx.AsyncClient(base_url=edge.url, http1=not http2, http2=http2, timeout=LONG_S) as client:
        body = {"model": "sim", "messages": [{"role": "user", "content": words("gone")}]}
        asking = asyncio.create_task(client.post("/v1/chat/completions", json=body))
        await until(one_is_held)
        behind = await hold(edge, "behind")
        asking.cancel()
    return behind


async def test_a_client_that_leaves_frees_its_place() -> None:
    """The first in the queue goes; who stood behind it is served when there is room. Nothing is left of the first."""
    async with full_edge(limits={"conversation_ttl_s": ENDS_S}) as edge:
        behind = await behind_one_that_left(edge, http2=True)
        await until(lambda: left(edge, 1))
        assert (await behind).status_code == 200
        assert await outcomes(edge, "gone") == 1
        assert await held(edge) == 0
        assert (await edge.metrics())["pointsman_ring_malformed_lines_total"] == 0
        await until(edge.idle)


async def test_a_client_whose_leaving_is_seen_late_keeps_nothing() -> None:
    """HTTP/1.1: it may take its turn before HAProxy looks. Whoever stands behind is served all the same, and once that
    one is over nothing is in flight and nothing kept."""
    async with full_edge(limits={"conversation_ttl_s": ENDS_S}) as edge:
        behind = await behind_one_that_left(edge, http2=False)
        assert (await behind).status_code == 200
        assert await held(edge) == 0
        assert await outcomes(edge, "gone") + await outcomes(edge, "admitted") == 2
        await until(edge.idle)

        async def nothing_kept() -> bool:
            return (await edge.metrics())["pointsman_kv_live_usage"] == 0

        await until(nothing_kept)


async def left(edge: RunningEdge, number: int) -> bool:
    return await outcomes(edge, "gone") == number


async def test_holding_is_switched_on_and_off_without_a_reload() -> None:
    """A policy put live may hold requests, and another one lets all of them go at once."""
    async with running_up(1, engine=ENGINE) as edge:
        assert (await edge.put_policy(policy(LONG_S))).status_code == 200

        async def begins_as_a_conversation() -> bool:
            answer = await edge.chat(words("full"), session="full")
            return answer.headers["x-pointsman-reason"].startswith("kv-")

        await talk(edge)
        await until(begins_as_a_conversation)
        await until_full(edge)
        asking = [await hold(edge, label) for label in ("one", "two")]
        assert (await edge.put_policy({"policy": "least_load"})).status_code == 200
        answers = [await one for one in asking]
        assert {(answer.status_code, answer.headers["x-pointsman-reason"]) for answer in answers} == {
            (200, "least-load")
        }
