"""Orders to a running fleet, through its own API; and what of another driver's replicas it takes over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from fake_incarnations import FakeCluster

from pointsman.engine.vllm.errors import ClusterError, VllmConfigError
from pointsman.engine.vllm.fleet import control
from pointsman.engine.vllm.fleet.config import PoolConfig, decode_fleet
from pointsman.engine.vllm.fleet.fleet import Fleet
from pointsman.engine.vllm.fleet.spec import Place
from pointsman.engine.vllm.replica.replica import Found

POOLS = [{"name": "chat", "model": "a", "replicas": 1}, {"name": "code", "model": "b", "replicas": 1}]


class FakeActor:
    """What a driver finds: only its end is of interest."""

    def __init__(self, id: str) -> None:
        self.id = id
        self.killed = False

    def kill(self) -> None:
        self.killed = True


@asynccontextmanager
async def running(
    token: str = "", check: Any = lambda pool: None
) -> AsyncIterator[tuple[Fleet, FakeCluster, httpx.AsyncClient, list[dict[str, PoolConfig]]]]:
    """A fleet of two pools on incarnations without Ray, a client of its API, and what it was told to remember."""
    cluster = FakeCluster()
    orders: list[dict[str, PoolConfig]] = []
    fleet = Fleet(decode_fleet({"pools": POOLS}), cluster.environment, check=check, on_order=orders.append)
    task = asyncio.create_task(fleet.run())
    await cluster.until(lambda: all(status.state == "ready" for status in fleet.statuses()))
    async with (
        control.serving(control.Control(fleet, token).app(), "127.0.0.1", 0) as url,
        httpx.AsyncClient(base_url=url, trust_env=False) as client,
    ):
        try:
            yield fleet, cluster, client, orders
        finally:
            fleet.stop()
            await task


async def test_a_pool_is_scaled_and_the_order_remembered() -> None:
    """202 with the pool as it stands; the other pool is as it was."""
    async with running() as (fleet, cluster, client, orders):
        answer = await client.post("/v1/pools/chat/scale", json={"replicas": 3})
        assert (answer.status_code, answer.json()["replicas"], answer.json()["state"]) == (202, 3, "scaling")
        await cluster.until(lambda: fleet.statuses()[0].state == "ready")
        assert cluster.running() == ["chat-1 a", "chat-2 a", "chat-3 a", "code-1 b"]
        assert orders[-1]["chat"].replicas == 3
        listed = (await client.get("/v1/pools")).json()["pools"]
        assert [(pool["name"], pool["ready"]) for pool in listed] == [("chat", 3), ("code", 1)]


async def test_a_changed_pool_is_rolled_and_keeps_its_size() -> None:
    """What is not said has its default, but the number of replicas."""
    async with running() as (fleet, cluster, client, orders):
        await client.post("/v1/pools/chat/scale", json={"replicas": 2})
        answer = await client.put("/v1/pools/chat", json={"model": "c"})
        assert (answer.status_code, answer.json()["state"], answer.json()["replicas"]) == (202, "rolling", 2)
        await cluster.until(lambda: fleet.statuses()[0].state == "ready")
        assert {incarnation.split()[1] for incarnation in cluster.running()} == {"b", "c"}
        assert orders[-1]["chat"] == PoolConfig(name="chat", model="c", replicas=2)


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "says"),
    [
        ("POST", "/v1/pools/chatt/scale", {"replicas": 1}, 404, "there are: chat, code"),
        ("PUT", "/v1/pools/chatt", {"model": "m"}, 404, "there are: chat, code"),
        ("POST", "/v1/pools/chat/scale", {"replicas": 513}, 422, "expected 1 to 512"),
        ("POST", "/v1/pools/chat/scale", {"replica": 1}, 422, "replica"),
        ("PUT", "/v1/pools/chat", {"model": ""}, 422, "pools.chat.model: got '', expected a folder"),
        ("PUT", "/v1/pools/chat", {"model": "m", "name": "x"}, 422, "a pool keeps its name"),
        ("PUT", "/v1/pools/chat", {"model": "m", "sizee": 1}, 422, "pools.chat.sizee: unknown key"),
        ("PUT", "/v1/pools/chat", {"model": "/no/such"}, 422, "a folder that exists"),
        ("PUT", "/v1/pools/chat", {"model": "huge"}, 409, "no room"),
        ("PUT", "/v1/pools/chat", [], 422, "object"),
    ],
)
async def test_an_order_that_cannot_be_is_refused(method: str, path: str, body: Any, status: int, says: str) -> None:
    """In the shape of all errors; nothing changes and nothing is remembered."""

    def check(pool: PoolConfig) -> None:
        if pool.model == "/no/such":
            raise VllmConfigError("model", pool.model, "a folder that exists")
        if pool.model == "huge":
            raise ClusterError("no room")

    async with running(check=check) as (fleet, _, client, orders):
        answer = await client.request(method, path, json=body)
        assert answer.status_code == status, answer.text
        assert says in answer.json()["error"]["message"]
        assert not orders
        assert all(status.state == "ready" for status in fleet.statuses())


async def test_orders_need_the_token_where_there_is_one() -> None:
    """The routers have it: it is theirs."""
    async with running(token="secret") as (_, _, client, _):
        assert (await client.get("/v1/pools")).status_code == 401
        answer = await client.get("/v1/pools", headers={"authorization": "Bearer secret"})
        assert answer.status_code == 200


async def test_a_fleet_that_stops_takes_no_orders() -> None:
    """409, and it goes on stopping."""
    async with running() as (fleet, _, client, _):
        fleet.stop()
        assert (await client.post("/v1/pools/chat/scale", json={"replicas": 2})).status_code == 409


def found(pool: str, number: int, *, rank: int = 0, revision: str = "a", begun: bool = True) -> tuple[Any, Found]:
    return FakeActor(f"{pool}-{number}.{rank}"), Found(Place("vllm", pool, number, rank, revision), begun, False)


async def test_what_is_not_whole_or_of_no_pool_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """A group with a rank missing, one that never began, one of a pool that is no more; the others are taken over."""
    monkeypatch.setattr("pointsman.engine.vllm.fleet.actor._placement_group", lambda name: None)
    cluster = FakeCluster()
    config = decode_fleet({"pools": [{"name": "moe", "model": "a", "replicas": 4, "data_parallel_size": 2}]})
    monkeypatch.setattr("pointsman.engine.vllm.fleet.fleet.revision_of", lambda fleet, pool: pool.model)
    fleet = Fleet(config, cluster.environment, adopting=True)
    whole = [found("moe", 1, rank=1), found("moe", 1, rank=0)]
    older = [found("moe", 4, revision="old")]
    lost = [
        found("moe", 2, rank=0),
        found("moe", 3, rank=0),
        found("moe", 3, rank=1, begun=False),
        found("gone", 1),
    ]
    assert fleet.adopt([*whole, *older, *lost]) == 2
    assert all(actor.killed for actor, _ in lost)
    assert not any(actor.killed for actor, _ in [*whole, *older])
    assert [member.id for member in fleet.statuses()[0].members] == ["moe-1", "moe-4"]
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        pytest.param({"origin": "https://attacker.example"}, b'{"replicas": 2}', 403, id="web page"),
        pytest.param({"sec-fetch-site": "same-origin"}, b'{"replicas": 2}', 403, id="web page that rebinds its name"),
        pytest.param({"content-type": "text/plain"}, b'{"replicas": 2}', 415, id="form post"),
        pytest.param({}, b'{"replicas": \xff}', 400, id="not JSON"),
        pytest.param({}, b'{"replicas": "\xff"}', 422, id="not UTF-8 where a number stands"),
        pytest.param({}, b'{"replicas": 1%s}' % (b"0" * 5000), 422, id="a number of 5,000 digits"),
    ],
)
async def test_what_no_router_sends_is_no_order(headers: dict[str, str], body: bytes, status: int) -> None:
    """Refused with one sentence; nothing changes."""
    async with running() as (fleet, _, client, orders):
        given = {"content-type": "application/json"} | headers
        answer = await client.post("/v1/pools/chat/scale", content=body, headers=given)
        assert answer.status_code == status, answer.text
        assert answer.json()["error"]["message"]
        assert not orders
        assert all(status.state == "ready" for status in fleet.statuses())
