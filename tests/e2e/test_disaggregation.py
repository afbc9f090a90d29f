"""Prefill and decode apart, through the real HAProxy: who computes which prompt, and what the client never notices."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from edge import SHARING, RunningEdge, SharedEdges, running_up, until

pytestmark = [pytest.mark.e2e, SHARING, pytest.mark.system]

ENGINE = {"timing": "dense-h100", "mean_output_tokens": 0, "faults": True, "prefill_timeout_s": 1.0}
THRESHOLD = 1000
"""Tokens left to compute from which a prompt is handed over; four bytes are one by the simulated engine's rule."""


def words(label: str, tokens: int) -> str:
    """About so many tokens."""
    text = f"{label} and so on and on, "
    return (text * (tokens * 4 // len(text) + 1))[: tokens * 4]


class Pairs:
    """An edge with decode and prefill replicas. Counts are of what happened since `begin`."""

    def __init__(self, edge: RunningEdge) -> None:
        self.edge = edge
        self._before: dict[str, dict[str, int]] = {"decisions": {}, "outcomes": {}}

    async def begin(self) -> Pairs:
        """Counts from here on."""
        self._before = {"decisions": await self.decisions(), "outcomes": await self.outcomes()}
        return self

    def _since(self, what: str, counted: dict[str, int]) -> dict[str, int]:
        before = self._before[what]
        return {name: count - before.get(name, 0) for name, count in counted.items() if count > before.get(name, 0)}

    async def ask(self, content: str, *, session: str = "") -> httpx.Response:
        body = {"model": "sim", "messages": [{"role": "user", "content": content}], "max_tokens": 3}
        answer = await self.edge.client.post(
            "/v1/chat/completions", json=body, headers={"x-session-id": session} if session else {}
        )
        assert answer.status_code == 200, answer.text
        assert answer.headers["x-pointsman-replica"].startswith("sim-")
        return answer

    async def decisions(self) -> dict[str, int]:
        """Decisions so far, by pairing."""
        prefix = 'pointsman_prefill_decisions_total{pairing="'
        found = (await self.edge.metrics()).items()
        counted = {name[len(prefix) : -2]: int(value) for name, value in found if name.startswith(prefix)}
        return self._since("decisions", counted)

    async def outcomes(self) -> dict[str, int]:
        """What became of handoffs, as decode replicas told the router; those that happened."""
        counted: dict[str, int] = {}
        for name, value in (await self.edge.metrics()).items():
            if name.startswith("pointsman_prefill_handoffs_total{") and value:
                outcome = name.partition('outcome="')[2].partition('"')[0]
                counted[outcome] = counted.get(outcome, 0) + int(value)
        return self._since("outcomes", counted)

    async def until_outcomes(self, **expected: int) -> None:
        async def told() -> bool:
            return await self.outcomes() == expected

        await until(told)

    async def stats(self, replica: str) -> dict[str, Any]:
        async with self.client_of(replica, await self.edge.replicas()) as client:
            found: dict[str, Any] = (await client.get("/sim/stats")).json()
            return found

    async def fault(self, replica: str, **switches: Any) -> None:
        async with self.client_of(replica, await self.edge.replicas()) as client:
            assert (await client.post("/sim/fault", json=switches)).status_code == 200

    def client_of(self, replica: str, views: dict[str, dict[str, Any]]) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=views[replica]["url"], trust_env=False)

    async def idle(self) -> bool:
        """Nothing in flight, no leg reserved, no backlog, no KV kept."""
        metrics = await self.edge.metrics()
        waiting = sum(value for name, value in metrics.items() if name.startswith("pointsman_prefill_backlog_tokens"))
        return await self.edge.idle() and not waiting and not (await self.stats("prefill-1"))["kv_kept"]


ROUTER = {"pair": {"min_uncached_tokens": THRESHOLD}}


@asynccontextmanager
async def shared_pair(shared: SharedEdges, lookup: str = "spoe", policy: str = "kv_cost") -> AsyncIterator[Pairs]:
    """A decode and a prefill replica whose settings and health stay as they are."""
    arguments = ("--prefill", "1", "--lookup", lookup)
    async with shared.up(1, *arguments, policy={"policy": policy}, engine=ENGINE, router=ROUTER) as edge:
        fleet = await Pairs(edge).begin()
        yield fleet
        await until(fleet.idle)


@asynccontextmanager
async def pairs(**engine: Any) -> AsyncIterator[Pairs]:
    """A decode and a prefill replica of their own."""
    arguments = ("--prefill", "1", "--policy", "kv_cost")
    async with running_up(1, *arguments, engine={**ENGINE, **engine}, router=ROUTER) as edge:
        yield Pairs(edge)


@pytest.mark.parametrize("lookup", ["spoe", pytest.param("lua", marks=pytest.mark.soak)])
async def test_who_computes_which_prompt(lookup: str, shared: SharedEdges) -> None:
    """A long prompt is handed over, a short one is not, nor is one whose head the decode replica holds.

    The second turn of the long conversation has some 100 tokens that are not resident. Neither replica's KV stays
    held, and the leg's reservation ends with its first token.
    """
    async with shared_pair(shared, lookup) as fleet:
        long = words("long", 6000)
        await fleet.ask(long, session="a")
        assert await fleet.decisions() == {"paired": 1}
        await fleet.ask("short", session="b")
        assert await fleet.decisions() == {"paired": 1, "short": 1}
        await fleet.until_outcomes(ok=1)
        await until(fleet.idle)
        await fleet.ask(long + words(" more", 100), session="a")
        assert await fleet.decisions() == {"paired": 1, "short": 1, "resident": 1}
        assert (await fleet.stats("prefill-1"))["engine"]["prompt_tokens"] > 6000
        assert await fleet.outcomes() == {"ok": 1}


async def test_policies_that_look_at_load_alone_hand_over_too(shared: SharedEdges) -> None:
    """They know a prompt by its bytes, which is enough for the threshold."""
    async with shared_pair(shared, policy="least_load") as fleet:
        await fleet.ask(words("by load alone", 6000))
        await fleet.ask("short")
        assert await fleet.decisions() == {"paired": 1, "short": 1}
        await fleet.until_outcomes(ok=1)


async def test_a_hung_prefill_replica_costs_what_prompts_cost() -> None:
    """It may take an hour by its pool's setting, after a prompt that took a fraction of a second: the next one is
    computed at home long before the client gives up."""
    async with pairs(prefill_timeout_s=3600.0) as fleet:
        await fleet.ask(words("first", 6000))
        await fleet.until_outcomes(ok=1)
        os.kill(fleet.edge.replica("prefill-1").pid, signal.SIGSTOP)
        try:
            await fleet.ask(words("second", 6000))
            await fleet.until_outcomes(ok=1, timeout=1)
        finally:
            os.kill(fleet.edge.replica("prefill-1").pid, signal.SIGCONT)
        await until(fleet.idle)


async def test_without_prefill_replicas_left_requests_are_served() -> None:
    """Down by HAProxy's checks: the router names none, and says so."""
    async with pairs() as fleet:
        await fleet.fault("prefill-1", health=False)

        async def down() -> bool:
            return (await fleet.edge.states())["prefill-1"] == "down"

        await until(down)
        await fleet.ask(words("long", 6000))
        assert await fleet.decisions() == {"no-prefill": 1}


async def test_clients_cannot_pair_by_themselves(shared: SharedEdges) -> None:
    """HAProxy takes the internal headers away, and the replica refuses transfer parameters with 400."""
    async with shared_pair(shared) as fleet:
        body = {"model": "sim", "messages": [{"role": "user", "content": words("forged", 6000)}], "max_tokens": 2}
        headers = {"x-pointsman-prefill": "127.0.0.1:1", "x-pointsman-leg": "-"}
        short = {**body, "messages": [{"role": "user", "content": "short"}]}
        assert (await fleet.edge.client.post("/v1/chat/completions", json=short, headers=headers)).status_code == 200
        params = {"do_remote_prefill": True, "remote_host": "127.0.0.1", "remote_port": 1}
        refused = await fleet.edge.client.post(
            "/v1/chat/completions", json={**body, "kv_transfer_params": params}, headers=headers
        )
        assert refused.status_code == 400
        assert "kv_transfer_params" in refused.json()["error"]["message"]
        assert await fleet.outcomes() == {}
