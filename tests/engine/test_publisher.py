"""What a publisher says to a real router, and to one that is not there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import httpx
import msgspec
import pytest
from edge import until
from residency import holds
from ring_line import line
from router_fixture import register, running_router

from pointsman.contract.events import (
    MAX_EDGES,
    EngineEvents,
    EngineLoad,
    EventsAnswer,
    Finished,
    FirstToken,
    RequestUsage,
)
from pointsman.engine.publisher import MAX_PENDING_KEYS, EngineFacts, EngineReadings, Publisher
from pointsman.engine.transport import RouterTransport
from pointsman.policies.request import RequestFeatures
from pointsman.router.app import Router


class Engine:
    """What a publisher asks an engine for."""

    def __init__(self) -> None:
        self.resident = [1, 2, 3]

    def publisher(self, *admin_urls: str, epoch: str = "one") -> Publisher:
        return Publisher(
            [RouterTransport(url, "", "a") for url in admin_urls],
            EngineFacts(epoch=epoch, capacity_tokens=5000, block_tokens=16),
            EngineReadings(
                resident=lambda: list(self.resident),
                depths=lambda keys: [10 * key for key in keys],
                load=lambda: EngineLoad(running=2, waiting=1, kv_usage=0.5),
            ),
        )


@asynccontextmanager
async def publishing(publisher: Publisher) -> AsyncIterator[None]:
    publisher.start()
    try:
        yield
    finally:
        await publisher.stop()


def admin_of(router: Router) -> str:
    return f"http://{router.addresses['admin']}"


def all_held(router: Router, *keys: int) -> bool:
    return all(holds(router.core.kv.index, 0, key) for key in keys)


async def test_a_snapshot_first_then_what_changes() -> None:
    """Capacity and load come along; keys come and go."""
    async with running_router(policy={"policy": "kv_cost"}) as router:
        await register(router, "a")
        publisher = Engine().publisher(admin_of(router))
        async with publishing(publisher):
            await until(lambda: _true(all_held(router, 1, 2, 3)))
            assert router.core.kv.columns.signals.capacity[0] == 5000
            assert router.core.kv.cursors[0].load == EngineLoad(running=2, waiting=1, kv_usage=0.5)
            publisher.keys([4], [1])
            await until(lambda: _true(all_held(router, 4)))
            assert not all_held(router, 1)
            assert publisher.snapshots == 1
            assert router.core.kv.counters.resyncs == 0


async def test_requests_are_told_by_their_ids() -> None:
    """A first token releases the prefill backlog, an end what is left."""
    async with running_router(policy={"policy": "kv_cost"}) as router:
        await register(router, "a")
        for request in ("r1", "r2"):
            router.core.decide(RequestFeatures(request_id=request, body_bytes=400), router.clock())
        publisher = Engine().publisher(admin_of(router))
        async with publishing(publisher):
            publisher.first_token(FirstToken("r1", 100, 20, 5.0))
            await until(lambda: _true(router.core.kv.columns.signals.waiting[0] == 100))
            publisher.finished(Finished("r2"))
            await until(lambda: _true(router.core.kv.columns.signals.waiting[0] == 0))


async def test_a_router_that_lost_a_message_is_put_right() -> None:
    """It asks for a snapshot, counts it, and has the whole truth again."""
    async with running_router(policy={"policy": "kv_cost"}) as router:
        await register(router, "a")
        engine = Engine()
        publisher = engine.publisher(admin_of(router))
        async with publishing(publisher):
            await until(lambda: _true(all_held(router, 1)))
            router.core.kv.cursors[0].at -= 1
            engine.resident = [7]
            publisher.keys([7], [1, 2, 3])
            await until(lambda: _true(all_held(router, 7)))
            assert not all_held(router, 1)
            assert (publisher.snapshots, router.core.kv.counters.resyncs) == (2, 1)


async def test_a_router_that_begins_again_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """By an engine that has nothing to say, and long before its next heartbeat: the connection ended."""
    monkeypatch.setattr("pointsman.engine.publisher.HEARTBEAT_S", 3600.0)
    policy = {"policy": "kv_cost"}
    async with AsyncExitStack() as stack:
        async with running_router(policy=policy) as router:
            await register(router, "a")
            publisher = Engine().publisher(admin_of(router))
            await stack.enter_async_context(publishing(publisher))
            await until(lambda: _true(all_held(router, 1, 2, 3)))
            publisher.keys([4], [])
            await until(lambda: _true(publisher._listeners[0].transport.fed))  # type: ignore[attr-defined]
            port = router.addresses["admin"].port
        async with running_router(policy=policy, admin={"port": port}) as router:
            await register(router, "a")
            await until(lambda: _true(all_held(router, 1, 2, 3)))
            assert router.core.kv.counters.resyncs == 0


async def test_another_life_of_the_engine_is_another_epoch() -> None:
    """What it held before is forgotten at once."""
    async with running_router(policy={"policy": "kv_cost"}) as router:
        await register(router, "a")
        engine = Engine()
        async with publishing(engine.publisher(admin_of(router))):
            await until(lambda: _true(all_held(router, 1, 2, 3)))
        engine.resident = []
        async with publishing(engine.publisher(admin_of(router), epoch="two")):
            await until(lambda: _true(router.core.kv.counters.restarts == 1))
            assert not any(all_held(router, key) for key in (1, 2, 3))


async def test_it_waits_for_a_router_that_is_not_there_and_stays_small() -> None:
    """Nobody listens, then the replica is not registered, then all is told; meanwhile the pending keys are bounded."""
    async with running_router(policy={"policy": "kv_cost"}) as router:
        engine = Engine()
        publisher = engine.publisher(admin_of(router), "http://127.0.0.1:1")
        async with publishing(publisher):
            for number in range(3):
                publisher.keys(range(number * MAX_PENDING_KEYS, (number + 1) * MAX_PENDING_KEYS), [])
                assert all(len(listener._pending) <= MAX_PENDING_KEYS for listener in publisher._listeners)
                await asyncio.sleep(0)
            await register(router, "a")
            await until(lambda: _true(all_held(router, 1, 2, 3)))


async def test_routers_say_how_often_they_want_to_be_told() -> None:
    """Often while the policy goes by KV, seldom else."""
    for policy, interval_s in (("kv_cost", 0.02), ("least_load", 0.2)):
        async with running_router(policy={"policy": policy}) as router:
            await register(router, "a")
            publisher = Engine().publisher(admin_of(router))
            async with publishing(publisher):
                await until(lambda r=router: _true(all_held(r, 1)))  # type: ignore[misc]
                await until(lambda p=publisher, i=interval_s: _true(p._listeners[0]._interval_s == i))  # type: ignore[misc]


JSON = {"content-type": "application/json"}


async def test_a_large_fleet_is_asked_to_gather_for_longer() -> None:
    """Fifty replicas may each speak every 50 ms: a thousand messages a second in all."""
    async with running_router(policy={"policy": "kv_cost"}) as router:
        await register(router, *(f"r{number}" for number in range(50)))
        async with httpx.AsyncClient(base_url=admin_of(router), trust_env=False) as client:
            answer = await client.post("/v1/replicas/r1/events", json={"epoch": "e", "seq": 0, "snapshot": True})
            expected = {"resync": False, "interval_ms": 50, "feed_port": router.core.feed_port, "renewed": False}
            assert answer.json() == expected | {"edge": "", "edges": {}, "usage_kept": 0}


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        pytest.param(JSON, b'{"epoch": "e", "seq": 0, "snapshot": true}', 200, id="json"),
        pytest.param({}, b"{}", 415, id="no type"),
        pytest.param({"content-type": "text/plain"}, b"{}", 415, id="neither json nor msgpack"),
        pytest.param(JSON, b"{", 400, id="not json"),
        pytest.param(JSON, b'{"epoch": "e"}', 422, id="no seq"),
        pytest.param(JSON, b'{"epoch": "e", "seq": 0, "sored": []}', 422, id="misspelt"),
        pytest.param(JSON, b'{"epoch": "e", "seq": 0, "stored": [-1]}', 422, id="no key"),
    ],
)
async def test_messages_are_checked(headers: dict[str, str], body: bytes, status: int) -> None:
    """A wrong message changes nothing and is answered by name; one for an unknown replica is 404."""
    async with running_router() as router, httpx.AsyncClient(base_url=admin_of(router), trust_env=False) as client:
        await register(router, "a")
        answer = await client.post("/v1/replicas/a/events", content=body, headers=headers)
        assert answer.status_code == status, answer.text
        assert router.core.kv.counters.messages == (status == 200)
        assert (await client.post("/v1/replicas/nobody/events", json={})).status_code == 404


async def _true(condition: bool) -> bool:
    return condition


class Answering:
    """A transport to a router that answers as it is told."""

    def __init__(self, answer: EventsAnswer) -> None:
        self.answer = answer
        self.messages: list[EngineEvents] = []
        self.closed = False

    async def send(self, message: EngineEvents) -> EventsAnswer:
        self.messages.append(message)
        return self.answer

    def on_hang_up(self, call: Callable[[], None]) -> None:
        pass

    async def close(self) -> None:
        self.closed = True


def naming(edge: str, *others: str) -> EventsAnswer:
    return EventsAnswer(resync=False, interval_ms=10, edge=edge, edges={other: f"http://{other}" for other in others})


def publisher_to(*given: Answering, **found: Answering) -> Publisher:
    return Publisher(
        given,
        EngineFacts(epoch="one", capacity_tokens=1),
        EngineReadings(resident=lambda: [1], load=EngineLoad),
        reach=lambda url: found[url.removeprefix("http://")],
    )


async def test_edges_that_a_router_names_are_reported_to() -> None:
    """Each gets a snapshot first, and what changes after."""
    a, b = Answering(naming("a", "b")), Answering(naming("b", "a"))
    publisher = publisher_to(a, b=b)
    async with publishing(publisher):
        await until(lambda: _true(b.messages))
        publisher.keys([2], [])
        await until(lambda: _true(b.messages[-1].stored == [2]))
        assert b.messages[0].snapshot and len(a.messages) >= 2
    assert b.closed


async def test_an_edge_is_reported_to_once() -> None:
    """Though another one names it by another address than the engine was given, and before it answered itself."""
    a, b = Answering(naming("")), Answering(naming("b", "a"))
    twice = Answering(naming("a", "b"))
    publisher = publisher_to(a, b, a=twice)
    async with publishing(publisher):
        await until(lambda: _true(twice.messages))
        a.answer = naming("a", "b")
        publisher.keys([2], [])
        await until(lambda: _true(twice.closed))
        assert not b.closed and not a.closed


async def test_an_edge_that_none_names_any_more_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a while: it may have been away for a moment."""
    monkeypatch.setattr("pointsman.engine.publisher.FORGET_S", 0.05)
    a, b = Answering(naming("a", "b")), Answering(naming("b", "a"))
    publisher = publisher_to(a, b=b)
    async with publishing(publisher):
        await until(lambda: _true(b.messages))
        a.answer = naming("a")
        b.answer = naming("b")
        await asyncio.sleep(0.06)
        publisher.keys([2], [])
        await until(lambda: _true(b.closed))
        publisher.keys([3], [])
        await until(lambda: _true(a.messages[-1].stored == [3]))


async def test_the_edges_of_a_roster_are_reported_to_up_to_a_limit() -> None:
    """Whatever somebody writes into the store."""
    many = [f"e{number}" for number in range(MAX_EDGES)]
    a = Answering(naming("a", *many))
    found = {name: Answering(naming(name)) for name in many}
    async with publishing(publisher_to(a, **found)):
        await until(lambda: _true(sum(bool(other.messages) for other in found.values()) == MAX_EDGES - 1))


def usage_of(router: Router) -> dict[str, int]:
    """Prompt tokens by tenant."""
    return {row.key.names.tenant: row.prompt_tokens for row in router.core.usage.ledger}


async def test_usage_is_kept_for_a_router_that_is_away() -> None:
    """It is told once the router is there again, and counted once; then it is forgotten."""
    policy = {"policy": "kv_cost"}
    async with AsyncExitStack() as stack:
        async with running_router(policy=policy) as router:
            await register(router, "a")
            publisher = Engine().publisher(admin_of(router))
            await stack.enter_async_context(publishing(publisher))
            await until(lambda: _true(publisher._listeners[0].usage.reads))
            router.core.decide(RequestFeatures(request_id="r1", tenant="acme", body_bytes=400), router.clock())
            publisher.used(RequestUsage("r1", 100))
            await until(lambda: _true(usage_of(router) == {"acme": 100} and len(publisher.usage) == 0))
            port = router.addresses["admin"].port
        for number in range(3):
            publisher.used(RequestUsage(f"away{number}", 100))
        async with running_router(policy=policy, admin={"port": port}) as router:
            await register(router, "a")
            for number in range(3):
                ended = line(id=f"away{number}", srv="a", first="a", tenant="acme")
                router.core.end_of_request.apply(ended, router.clock())
            await until(lambda: _true(usage_of(router) == {"acme": 300} and len(publisher.usage) == 0))


async def test_a_router_of_an_earlier_version_is_told_of_no_usage() -> None:
    """It would refuse a field that it does not know; a message has only fields that say something."""
    old = Answering(EventsAnswer(resync=False, interval_ms=1))
    publisher = publisher_to(old)
    async with publishing(publisher):
        for number in range(3):
            publisher.used(RequestUsage(f"r{number}", 100))
            publisher.finished(Finished(f"r{number}"))
            await until(lambda n=number: _true(any(f.id == f"r{n}" for m in old.messages for f in m.finished)))  # type: ignore[misc]
    assert all(not message.usage for message in old.messages)
    assert b"\xa5usage" not in msgspec.msgpack.encode(old.messages[-1])
    assert len(publisher.usage) == 0
