"""A new version behind an alias, through whole edges: shares, sessions that stay, rollback under load, fail-open."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from edge import RunningEdge, running_edges, running_up, until
from sim_replica import events_of, replica

pytestmark = [pytest.mark.e2e, pytest.mark.system]

STABLE, CANARY = "sim", "m-v2"
SESSIONS = 300
AT_ONCE = 12
PATIENT = {"timeouts": {"processing_ms": 5000, "router_check_ms": 1000}, "version_header": "x-model-version"}
"""So that a machine that is busy with other things does not make the edge fail open."""

HEAD = "You are a helpful assistant. " * 80
"""A system prompt that all sessions have in common: 2.3 KB."""


@asynccontextmanager
async def two_versions(*arguments: str) -> AsyncIterator[RunningEdge]:
    """An edge with a replica of each version, and an alias that has 90 % of new sessions begin with the first."""
    async with running_up(1, *arguments, haproxy=PATIENT) as edge:
        settings = {"model": CANARY, "replica_id": "canary", "faults": True, "register": [edge.admin_url]}
        async with replica(**settings):

            async def is_up() -> bool:
                return list((await edge.states()).values()) == ["up", "up"]

            await until(is_up)
            await weigh(edge, 90, 10)

            async def reads_names() -> bool:
                value = await edge.haproxy("get var proc.pm.body")
                known = await edge.haproxy("show map aliases.map")
                return bool(int(value.split("<")[-1].split(">")[0]) & 8) and STABLE in known

            await until(reads_names)
            yield edge


async def weigh(edge: RunningEdge, stable: float, canary: float, **fields: Any) -> None:
    versions = [{"model": STABLE, "weight": stable}, {"model": CANARY, "weight": canary}]
    answer = await edge.admin.put("/v1/aliases/chat", json={"versions": versions, "override": True, **fields})
    assert answer.status_code in (200, 201), answer.text


async def alias(edge: RunningEdge) -> dict[str, Any]:
    view: dict[str, Any] = (await edge.admin.get("/v1/aliases/chat")).json()
    return view


async def turn(edge: RunningEdge, session: str, number: int, *, stream: bool) -> str:
    """The replica that serves a session's next request, whose answer is whole and names the alias."""
    messages = [{"role": "system", "content": HEAD}]
    messages += [{"role": "user", "content": f"{session} says {at} " + "word " * 200} for at in range(number + 1)]
    body = {"model": "chat", "messages": messages, "max_tokens": 4, "ignore_eos": True, "stream": stream}
    answer = await edge.client.post("/v1/chat/completions", json=body, headers={"x-session-id": session})
    assert answer.status_code == 200, answer.text
    if stream:
        *chunks, done = events_of(answer.text)
        assert done == "[DONE]"
        assert {chunk["model"] for chunk in chunks} == {"chat"}
    else:
        assert answer.json()["model"] == "chat"
    return str(answer.headers["x-pointsman-replica"])


async def turns(edge: RunningEdge, sessions: Sequence[str], number: int) -> dict[str, str]:
    """One turn of each session, some at once."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(at: int, session: str) -> tuple[str, str]:
        async with gate:
            return session, await turn(edge, session, number, stream=at % 2 == 0)

    return dict(await asyncio.gather(*(one(at, session) for at, session in enumerate(sessions))))


async def test_sessions_keep_their_version_on_two_edges_and_over_the_restart_of_a_router() -> None:
    """The alias is made and changed at one edge; sessions begin there and go on at the other, and back again."""
    names = [f"session-{number}" for number in range(120)]
    async with running_edges(2, 1, haproxy=PATIENT) as edges:
        first, second = edges
        settings = {"model": CANARY, "replica_id": "canary", "register": [edge.admin_url for edge in edges]}
        async with replica(**settings):

            async def ready() -> bool:
                maps = [await edge.haproxy("show map aliases.map") for edge in edges]
                states = [list((await edge.states()).values()) for edge in edges]
                return states == [["up", "up"]] * 2 and all(STABLE in known for known in maps)

            async def known(share: float) -> bool:
                views = [(await edge.admin.get("/v1/aliases/chat")).json() for edge in edges]
                return all(view.get("versions", [{}] * 2)[1].get("share") == share for view in views)

            await weigh(first, 70, 30)
            await until(ready)
            await until(lambda: known(0.3))
            began = await turns(first, names, 0)
            assert 15 < Counter(began.values())["canary"] < 60
            await weigh(first, 1, 0)
            await until(lambda: known(0.0))
            assert await turns(second, names, 1) == began
            router = first.router()
            router.kill()
            await until(lambda: is_another(first, router.pid))
            await until(ready)
            await until(lambda: known(0.0))
            assert await turns(first, names, 2) == began
            assert [(await alias(edge))["sessions_moved"] for edge in edges] == [0, 0]


async def is_another(edge: RunningEdge, pid: int) -> bool:
    """Whether the router is another process than it was, and answers."""
    try:
        return edge.router().pid != pid and (await edge.admin.get("/readyz")).status_code == 200
    except (AssertionError, httpx.HTTPError):
        return False


@pytest.mark.parametrize("lookup", ["spoe", "lua"])
async def test_a_canary_has_its_share_of_new_sessions_and_keeps_them(lookup: str) -> None:
    """10 % within four standard deviations; no session changes its version while weights change, the alias is paused,
    and the canary promoted; one call takes all back, without an error."""
    names = [f"session-{number}" for number in range(SESSIONS)]
    async with two_versions("--lookup", lookup) as edge:
        assert {card["id"] for card in (await edge.client.get("/v1/models")).json()["data"]} == {STABLE, CANARY, "chat"}
        began = await turns(edge, names, 0)
        share = Counter(began.values())["canary"]
        assert abs(share - 0.1 * SESSIONS) < 4 * math.sqrt(SESSIONS * 0.1 * 0.9)
        await weigh(edge, 50, 50)
        assert await turns(edge, names, 1) == began
        assert (await edge.admin.post("/v1/aliases/chat/pause")).status_code == 200
        later = await turns(edge, [f"later-{number}" for number in range(40)], 0)
        assert "canary" not in later.values()
        assert await turns(edge, names, 2) == began
        view = await alias(edge)
        assert (view["sessions_moved"], view["versions"][1]["sessions"]) == (0, share)
        under_load = asyncio.create_task(turns(edge, names, 3))
        await asyncio.sleep(0.1)
        assert (await edge.admin.post("/v1/aliases/chat/rollback", json={"why": "drill"})).status_code == 200
        await under_load
        after = await turns(edge, names, 4)
        assert set(after.values()) == {next(iter(set(began.values()) - {"canary"}))}
        view = await alias(edge)
        assert view["sessions_moved"] == share
        assert view["versions"][1]["sessions"] == 0
        assert view["recomputed_tokens"] > share * 200
        assert sum(version["errors"] for version in view["versions"]) == 0
        assert (await edge.metrics())['pointsman_rollout_recomputed_tokens_total{alias="chat"}'] > 0
        print(lookup, share, "of", SESSIONS, "sessions;", view["recomputed_tokens"], "tokens computed again")


async def test_the_stable_version_serves_the_alias_while_the_router_is_away() -> None:
    """Sessions of the canary too: HAProxy knows no weights. The answer still names the alias."""
    async with two_versions() as edge:
        router = edge.router()
        router.suspend()
        try:
            served = await turns(edge, [f"s{number}" for number in range(20)], 0)
        finally:
            router.resume()
        assert "canary" not in served.values()


async def test_a_tester_is_served_by_the_version_that_a_header_names() -> None:
    """And nobody else by it."""
    async with two_versions() as edge:
        await weigh(edge, 1, 0)
        for version, expected in ((CANARY, "canary"), ("", None)):
            headers = {"x-model-version": version} if version else {}
            body = {"model": "chat", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
            answer = await edge.client.post("/v1/chat/completions", json=body, headers=headers)
            assert answer.status_code == 200
            assert (answer.headers["x-pointsman-replica"] == "canary") is (expected == "canary")


async def test_a_version_that_fails_is_stopped_by_itself() -> None:
    """The event says why."""
    async with two_versions() as edge:
        await weigh(edge, 50, 50, stop={"error_share": 0.2, "min_requests": 4, "roll_back": True})
        body = {"model": "chat", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
        canary = (await edge.replicas())["canary"]["url"]
        async with httpx.AsyncClient() as client:
            faults = {"error_status": 500, "error_count": 1000}
            (await client.post(f"{canary}/sim/fault", json=faults)).raise_for_status()
        statuses: Counter[int] = Counter()

        async def stopped() -> bool:
            for _ in range(10):
                statuses[(await edge.client.post("/v1/chat/completions", json=body)).status_code] += 1
            return bool((await alias(edge))["versions"][1]["withdrawn"])

        await until(stopped)
        texts = [event["text"] for event in (await edge.admin.get("/v1/events?kind=alias")).json()["events"]]
        assert "m-v2 is rolled back" in texts[-1]
        assert statuses[500] >= 4
