"""Two edges that share state, in front of a fleet with something of everything, and a load that meets all of it.

Prefill and decode replicas of the model `sim`, three replicas of `chat` whose KV is too small for their conversations,
so that requests are held, a plain endpoint of `plain`, and an endpoint that is not there. The alias `assistant` stands
for `sim` and `chat`. Clients of two tenants, and some whose requests are refused.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import random
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
from edge import RunningEdge, running_edges, until
from sim_replica import replica

from pointsman.engine.sim.server import SimServer

TENANTS = {"acme": "sk-acme", "zeta": "sk-zeta"}
POLICY: dict[str, Any] = {"policy": "kv_cost", "admission": {"limit": 0.5, "wait_s": 1.0, "retry_after_s": 1}}
WORDS = ["the", "replica", "that", "holds", "the", "prefix", "answers", "first", "and", "the", "others", "wait"]

PACED = {"token_interval_ms": 2.0, "first_token_ms": 10.0}
"""Of replicas whose requests overlap."""

SMALL_KV = {"kv_tokens": 4096, "max_model_len": 4096}
"""Of replicas that have no room for many conversations."""


class MixedFleet:
    """The edges, the replicas of the test's own, and clients."""

    def __init__(self, edges: list[RunningEdge], own: dict[str, SimServer], seed: int) -> None:
        self.edges = edges
        self.own = own
        self.answers: dict[int, int] = {}
        """Answers by status."""
        self._dice = random.Random(seed)
        self._numbers = itertools.count()

    def haproxy_addresses(self) -> list[str]:
        """Where each HAProxy serves its own metrics."""
        configs = [edge.run_dir / "haproxy.cfg" for edge in self.edges]
        return [_ops_address(config) for config in configs]

    async def replica_addresses(self) -> dict[str, str]:
        """HOST:PORT of every replica that is there, by id."""
        views = (await self.edges[0].replicas()).values()
        return {view["id"]: view["url"].removeprefix("http://") for view in views if view["id"] != "gone"}

    # Clients

    async def ask(self, model: str, messages: list[dict[str, str]], tenant: str, session: str, **body: Any) -> str:
        """One request through one of the edges; the answer's words, empty for an error."""
        edge = self._dice.choice(self.edges)
        headers = {"authorization": f"Bearer {TENANTS.get(tenant, 'wrong')}", "x-session-id": session}
        stream = self._dice.random() < 0.7
        whole = {"model": model, "messages": messages, "max_tokens": 24, "stream": stream} | body
        try:
            answer = await edge.client.post("/v1/chat/completions", json=whole, headers=headers)
        except httpx.HTTPError:  # a stream that was cut
            return ""
        self.answers[answer.status_code] = self.answers.get(answer.status_code, 0) + 1
        return answer.text[:200] if answer.status_code == 200 else ""

    async def converse(self, model: str, tenant: str, turns: int, words: int) -> None:
        """One conversation: each turn sends all before it."""
        session = f"{tenant}-{model}-{next(self._numbers)}"
        system = " ".join(WORDS * 8)
        messages = [{"role": "system", "content": f"{tenant} {system}"}]
        for _ in range(turns):
            messages.append({"role": "user", "content": " ".join(self._dice.choices(WORDS, k=words))})
            said = await self.ask(model, messages, tenant, session)
            messages.append({"role": "assistant", "content": said[:80]})

    async def odd_requests(self) -> None:
        """Requests that no replica serves, and one of another kind."""
        hello = [{"role": "user", "content": "hello"}]
        await self.ask("no such model", hello, "acme", "odd")
        await self.ask("sim", hello, "nobody", "odd")
        for edge in self.edges:
            headers = {"authorization": f"Bearer {TENANTS['acme']}"}
            await edge.client.post(
                "/v1/completions", json={"model": "sim", "prompt": "x" * 300, "max_tokens": 4}, headers=headers
            )

    async def work(self, seconds: float, *, clients: int = 7) -> None:
        """Conversations of all models for so long."""
        async with asyncio.timeout(seconds + 30), asyncio.TaskGroup() as group:
            ends_s = asyncio.get_running_loop().time() + seconds

            async def client(number: int) -> None:
                while asyncio.get_running_loop().time() < ends_s:
                    model = ("sim", "chat", "plain", "chat", "assistant")[number % 5]
                    tenant = tuple(TENANTS)[number // 3 % 2]
                    await self.converse(model, tenant, turns=4, words=self._dice.choice((40, 120, 300)))

            for number in range(clients):
                group.create_task(client(number))
            while asyncio.get_running_loop().time() < ends_s:
                await self.odd_requests()
                await asyncio.sleep(0.5)

    # What happens to it

    async def fail(self, name: str, **fault: object) -> None:
        """Switches a fault of one of the test's own replicas on or off."""
        async with httpx.AsyncClient(base_url=self.own[name].url, trust_env=False) as client:
            (await client.post("/sim/fault", json=fault)).raise_for_status()

    async def change_policy(self, document: dict[str, Any]) -> int:
        """The status of the answer."""
        return (await self.edges[0].put_policy(document)).status_code

    async def try_policies(self) -> None:
        """A policy in the shadow of the first edge, and another one for half of its new sessions."""
        admin = self.edges[0].admin
        (await admin.put("/v1/policy/shadow", json={"document": {"policy": "least_load"}})).raise_for_status()
        plan = {"document": {"policy": "power_of_two"}, "steps": [0.5], "step_s": 3600.0}
        (await admin.post("/v1/policy/rollout", json=plan)).raise_for_status()

    async def set_alias(self) -> None:
        """Half of the sessions that ask for `assistant` get one model, half the other."""
        alias = {"versions": [{"model": "chat", "weight": 1}, {"model": "sim", "weight": 1}]}
        (await self.edges[0].admin.put("/v1/aliases/assistant", json=alias)).raise_for_status()

    async def report_pools(self) -> None:
        """What a fleet's driver says of its pools, to every edge."""
        member = {"revision": "r1", "urls": []}
        pool = {
            "name": "sim", "model": "sim", "role": "decode", "replicas": 3, "replicas_max": 8, "ready": 2,
            "state": "scaling", "revision": "r1",
            "members": [
                member | {"id": "sim-0", "state": "ready", "deaths": 1},
                member | {"id": "sim-1", "state": "ready", "deaths": 0},
                member | {"id": "sim-2", "state": "starting", "deaths": 2},
            ],
        }  # fmt: skip
        lease = {"control": "http://127.0.0.1:9", "ttl_s": 3600, "pools": [pool]}
        for edge in self.edges:
            (await edge.admin.put("/v1/fleets/test", json=lease)).raise_for_status()


def _ops_address(config: Path) -> str:
    found = re.search(r"^frontend ops\n\s+bind (\S+)", config.read_text(), re.MULTILINE)
    assert found, f"{config}: no frontend ops"
    return found[1]


def _keys(folder: Path) -> Path:
    path = folder / "keys.map"
    path.write_text("".join(f"{hashlib.sha256(key.encode()).hexdigest()} {who}\n" for who, key in TENANTS.items()))
    return path


@asynccontextmanager
async def mixed_fleet(folder: Path, *, traces_to: str = "", seed: int = 1) -> AsyncIterator[MixedFleet]:
    """The edges and their fleet, all up but the endpoint that is not there.

    traces_to: URL of a collector of spans; empty: no request is traced.
    """
    haproxy = {"first_token": True, "api_keys_map": str(_keys(folder)), "tracing": bool(traces_to)}
    router = {
        "policy": POLICY,
        "pair": {"min_uncached_tokens": 64},
        "decisions": {"access_log": str(folder / "access.jsonl")},
        "tracing": {"endpoint": traces_to, "sample": 0.1},
    }
    async with running_edges(
        2, 2, "--prefill", "1", engine={"timing": "fast", **PACED}, router=router, haproxy=haproxy
    ) as edges, AsyncExitStack() as stack:  # fmt: skip
        register = tuple(edge.admin_url for edge in edges)
        own = {}
        for name, settings in _own_replicas(register):
            own[name] = await stack.enter_async_context(replica(replica_id=name, faults=True, **settings))
        for edge in edges:
            await _register_endpoints(edge, own["plain-1"].url)
        fleet = MixedFleet(edges, own, seed)

        async def all_up() -> bool:
            states = [await edge.states() for edge in edges]
            return all(
                {name for name, state in known.items() if state == "up"} >= {"sim-1", "sim-2", "prefill-1", *own}
                for known in states
            )

        await until(all_up)
        yield fleet


def _own_replicas(register: tuple[str, ...]) -> Iterator[tuple[str, dict[str, Any]]]:
    for number in (1, 2, 3):
        yield f"chat-{number}", {"model": "chat", "register": register, "seed": number, **PACED, **SMALL_KV}
    yield "plain-1", {"model": "plain", "events": False, **PACED}


async def _register_endpoints(edge: RunningEdge, plain_url: str) -> None:
    for name, body in (
        ("plain-1", {"url": plain_url, "model": "plain"}),
        ("gone", {"url": "http://127.0.0.1:9", "model": "sim"}),
    ):
        (await edge.admin.put(f"/v1/replicas/{name}", json=body)).raise_for_status()
