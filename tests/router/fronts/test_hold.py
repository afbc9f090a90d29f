"""The hold front: an answer that comes when it is the request's turn."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, ClassVar
from urllib.parse import urlencode

import httpx
from router_fixture import client_of, register, running_router

from pointsman.policies.candidates import Candidates
from pointsman.policies.decision import Ranked, Refusal
from pointsman.policies.policy import Context, PlainPolicy, PolicyConfig
from pointsman.policies.policy_set import PolicySet
from pointsman.policies.request import RequestFeatures
from pointsman.router.app import Router
from pointsman.router.fronts.hold import LOOK_S
from pointsman.router.requests.hold_queue import Outcome

REACH_S = 30.0
"""How long a test waits for what must happen; nothing is asserted about time."""

TOKENS = 1000


class Full:
    """A router whose only replica has room for `TOKENS` tokens, all taken by one conversation."""

    def __init__(self, router: Router, client: httpx.AsyncClient) -> None:
        self.router = router
        self.client = client
        self.holds = router.core.pipeline.holds

    async def ask(self, route: str, request: str, tokens: int = 100, **more: str) -> str:
        form = {"id": request, "path": "/v1/completions", "session": f"session of {request}", "size": 4 * tokens}
        form |= more
        answer = await self.client.post(route, content=urlencode(form))
        return answer.text if answer.status_code == 200 else f"{answer.status_code} {answer.text}"

    async def hold(self, request: str) -> asyncio.Task[str]:
        """A request that waits."""
        before = len(self.holds)
        asking = asyncio.create_task(self.ask("/hold", request))
        await self.held(before + 1)
        return asking

    async def held(self, number: int) -> None:
        async with asyncio.timeout(REACH_S):
            while len(self.holds) != number:
                await asyncio.sleep(0.005)

    def has_room(self, tokens: int) -> None:
        self.router.core.kv.columns.set_capacity(0, TOKENS + tokens)


@asynccontextmanager
async def full_router(wait_s: float = 60.0, **overrides: Any) -> AsyncIterator[Full]:
    policy = {"policy": "kv_cost", "admission": {"limit": 1.0, "wait_s": wait_s, "retry_after_s": 3}}
    async with (
        running_router(policy=policy, **overrides) as router,
        client_of(router, "lookup", timeout=REACH_S) as client,
    ):
        await register(router, "a")
        full = Full(router, client)
        full.has_room(0)
        assert "first=a\n" in await full.ask("/lookup", "0", TOKENS)
        yield full


async def test_a_lookup_without_room_says_how_long_to_hold() -> None:
    """In milliseconds; with what refuses it, for a HAProxy that knows of no holding."""
    async with full_router(2.5) as full:
        assert await full.ask("/lookup", "1") == "reason=admission\nstatus=429\nretry_after=3\nhold=2500\n"


async def test_the_answer_comes_with_the_turn() -> None:
    """As from a lookup, to one after the other as room appears; and each is reserved like any lookup."""
    async with full_router() as full:
        first, second = await full.hold("1"), await full.hold("2")
        full.has_room(150)
        assert await first == "reason=kv-cold\nfirst=a\n"
        assert not second.done()
        full.has_room(250)
        assert await second == "reason=kv-cold\nfirst=a\n"
        assert len(full.router.core.load) == 3


async def test_the_answer_after_the_wait_is_a_refusal() -> None:
    """And does not ask to be held once more."""
    async with full_router(0.05) as full:
        assert await full.ask("/hold", "1") == "reason=admission\nstatus=429\nretry_after=3\n"
        assert full.holds.outcomes == {Outcome.TIMED_OUT: 1}


async def test_with_room_there_is_no_wait() -> None:
    """It appeared since the lookup."""
    async with full_router() as full:
        full.has_room(100)
        assert await full.ask("/hold", "1") == "reason=kv-cold\nfirst=a\n"


async def test_a_connection_that_ends_frees_its_place() -> None:
    """HAProxy closes it when the client left; who stands behind moves up."""
    async with full_router() as full:
        first, second = await full.hold("1"), await full.hold("2")
        first.cancel()
        await full.held(1)
        assert full.holds.outcomes == {Outcome.GONE: 1}
        full.has_room(100)
        assert "first=a\n" in await second


async def test_an_end_of_request_line_frees_the_place() -> None:
    """Also where the connection is still open: the request is over, and nobody would end what it were placed for."""
    async with full_router() as full:
        first = await full.hold("1")
        full.router.core.end_of_request.apply(b'{"ev":"end","id":"1","srv":"<NOSRV>","st":429}', full.router.clock())
        assert len(full.holds) == 0
        assert full.holds.outcomes == {Outcome.GONE: 1}
        first.cancel()


async def test_a_router_that_stops_lets_all_go() -> None:
    """Without an opinion, at once: HAProxy chooses for them. Its stop does not wait for theirs."""
    async with AsyncExitStack() as outlives:
        async with full_router() as full:
            full.client = await outlives.enter_async_context(client_of(full.router, "lookup", timeout=REACH_S))
            asking = [await full.hold("1"), await full.hold("2")]
        assert [await one for one in asking] == ["503 nobody decided\n"] * 2
        assert full.holds.outcomes == {Outcome.DROPPED: 2}


class Broken(PlainPolicy[PolicyConfig]):
    """Cannot decide."""

    name: ClassVar[str] = "broken"
    Config: ClassVar[type[PolicyConfig]] = PolicyConfig

    def admit(self, features: RequestFeatures, candidates: Candidates, context: Context) -> Refusal | None:
        raise ZeroDivisionError

    def rank(self, features: RequestFeatures, candidates: Candidates, context: Context) -> list[Ranked]:
        raise ZeroDivisionError


async def test_a_policy_that_fails_holds_nobody_up() -> None:
    """A programming error costs those who wait their answer, and is counted."""
    async with full_router() as full:
        asking = [await full.hold("1"), await full.hold("2")]
        full.router.core.pipeline.swap_policies(PolicySet(Broken(PolicyConfig())))
        assert [await one for one in asking] == ["503 nobody decided\n"] * 2
        assert full.holds.outcomes == {Outcome.DROPPED: 2}
        assert full.router.core.decision_metrics.lookup_errors == 1


async def test_what_is_held_is_measured() -> None:
    """How many wait, how long they waited, and what became of them."""
    async with full_router() as full, client_of(full.router) as admin:
        asking = await full.hold("1")
        assert "pointsman_held 1.0\n" in (await admin.get("/metrics")).text
        full.has_room(100)
        await asking
        text = (await admin.get("/metrics")).text
        assert "pointsman_held 0.0\n" in text
        assert 'pointsman_holds_total{outcome="admitted"} 1.0\n' in text
        assert "pointsman_hold_seconds_count 1.0\n" in text


async def test_a_form_too_large_is_refused() -> None:
    """As by a lookup."""
    async with full_router() as full:
        answer = await full.client.post("/hold", content=b"x" * 20_000)
        assert answer.status_code == 413


async def test_a_client_whose_connection_ended_waits_no_longer() -> None:
    """The kernel says so, though HAProxy keeps its question open: refused, to be read by nobody."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        edge, _ = listener.accept()
    with edge:
        addresses = {
            "client": "{} {}".format(*edge.getpeername()),
            "edge": "{} {}".format(*edge.getsockname()),
        }
        async with full_router() as full:
            stays = await full.hold("stays")
            leaves = asyncio.create_task(full.ask("/hold", "leaves", **addresses))
            await full.held(2)
            client.close()
            assert await leaves == "reason=admission\nstatus=429\nretry_after=3\n"
            assert full.holds.outcomes == {Outcome.GONE: 1}
            full.has_room(100)
            assert "first=a" in await stays


async def test_a_client_that_the_kernel_does_not_know_waits_on() -> None:
    """HAProxy runs elsewhere: nobody counts as gone."""
    async with full_router() as full:
        asking = asyncio.create_task(full.ask("/hold", "1", client="192.0.2.1 5000", edge="192.0.2.2 80"))
        await full.held(1)
        await asyncio.sleep(1.5 * LOOK_S)
        assert not asking.done()
        full.has_room(100)
        assert "first=a" in await asking


async def test_one_that_loses_its_place_is_answered_at_once() -> None:
    """A request of a higher class came to a full queue."""
    limits = {"max_held": 1}
    async with full_router(limits=limits) as full:
        low = asyncio.create_task(full.ask("/hold", "low", priority="low"))
        await full.held(1)
        usual = asyncio.create_task(full.ask("/hold", "usual"))
        assert await low == "reason=admission\nstatus=429\nretry_after=3\n"
        assert full.holds.outcomes == {Outcome.SHED: 1}
        full.has_room(100)
        assert "first=a" in await usual
