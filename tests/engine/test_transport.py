"""Ways to a router: from HTTP to a connection that stays open, and back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from residency import holds
from router_fixture import register, running_router

from pointsman.contract.events import EngineEvents
from pointsman.contract.registration import Registration
from pointsman.engine import transport
from pointsman.engine.transport import RouterTransport, TransportError
from pointsman.router.app import Router


def events(seq: int, **given: object) -> EngineEvents:
    return EngineEvents(epoch="e", seq=seq, **given)  # type: ignore[arg-type]


def lease(router: Router, born_ms: int = 0) -> None:
    """Registers replica a for ten seconds."""
    registration = Registration(url="http://127.0.0.1:1", model="m", ttl_s=10.0, born_ms=born_ms)
    router.core.replicas.put("a", registration, ("127.0.0.1", 1), router.clock())


@asynccontextmanager
async def way_to(router: Router, replica: str = "a", token: str = "") -> AsyncIterator[RouterTransport]:
    way = RouterTransport(f"http://{router.addresses['admin']}", token, replica)
    try:
        yield way
    finally:
        await way.close()


@asynccontextmanager
async def open_way() -> AsyncIterator[tuple[Router, RouterTransport]]:
    """A way to a router that knows replica a, over the open connection: two messages were sent."""
    async with running_router() as router, way_to(router) as way:
        await register(router, "a")
        await way.send(events(0, snapshot=True))
        await way.send(events(1))
        yield router, way


async def test_the_first_message_goes_over_http_and_the_others_do_not() -> None:
    """Its answer says where a connection may stay open."""
    async with running_router() as router, way_to(router) as way:
        await register(router, "a")
        for seq in range(4):
            answer = await way.send(events(seq, snapshot=not seq, stored=[seq]))
            assert not answer.resync
            assert way.fed == (seq > 0)
        assert len(router._feeds) == 1
        assert all(holds(router.core.kv.index, 0, key) for key in range(4))


async def test_the_token_goes_along() -> None:
    """The same one; a wrong one is refused either way."""
    async with running_router(admin={"port": 0, "token": "secret"}) as router, way_to(router, token="wrong") as way:
        with pytest.raises(TransportError, match="401"):
            await way.send(events(0, snapshot=True))
        way._port = router.core.feed_port
        with pytest.raises(TransportError, match="401"):
            await way.send(events(0, snapshot=True))
        assert not way.fed


async def test_a_connection_that_broke_is_made_again_by_way_of_http() -> None:
    """The message on it may be lost, which is said; the next one is taken."""
    async with open_way() as (router, way):
        router._hang_up_feeds()
        with pytest.raises(TransportError, match="broke"):
            await way.send(events(2))
        assert not way.fed
        await way.send(events(3, snapshot=True))
        await way.send(events(4))
        assert way.fed


async def test_a_port_that_cannot_be_reached_is_left_alone() -> None:
    """HTTP serves, without a try at every message."""
    async with running_router() as router, way_to(router) as way:
        await register(router, "a")
        # Nobody listens there: as behind a firewall that lets the admin port through alone.
        router.core.feed_port = 1
        for seq in range(3):
            await way.send(events(seq, snapshot=not seq))
            assert not way.fed
        assert way._avoid_until_s > 0


async def test_a_replica_that_is_gone_keeps_its_connection() -> None:
    """Not registered is an expected answer, whatever the way; after it the connection serves on."""
    async with open_way() as (router, way):
        router.core.replicas.remove("a")
        with pytest.raises(TransportError) as raised:
            await way.send(events(2))
        assert raised.value.expected
        assert way.fed
        await register(router, "a")
        assert not (await way.send(events(3, snapshot=True))).resync


async def test_a_send_that_is_cancelled_leaves_no_half_frame() -> None:
    """The connection ends with it; what follows is whole."""
    async with open_way() as (_, way):
        sending = asyncio.create_task(way.send(events(2)))
        await asyncio.sleep(0)
        sending.cancel()
        await asyncio.wait({sending})
        assert not (await way.send(events(3, snapshot=True))).resync


async def test_a_router_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A message that gets no answer in time was not taken."""
    monkeypatch.setattr(transport, "TIMEOUT_S", 0.05)

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    async with server:
        way = RouterTransport("http://127.0.0.1:1", "", "a")
        way._port = server.sockets[0].getsockname()[1]
        with pytest.raises(TransportError):
            await way.send(events(0, snapshot=True))
        assert not way.fed
        await way.close()


async def test_messages_over_the_open_connection_renew_the_lease() -> None:
    """Not those over HTTP, which cost what a heartbeat does, nor when the connection has ended."""
    async with running_router() as router, way_to(router) as way:
        lease(router)
        await way.send(events(0, snapshot=True))
        assert not way.renews
        await way.send(events(1))
        assert way.renews
        router.core.replicas.remove("a")
        with pytest.raises(TransportError, match="404"):
            await way.send(events(2))
        assert not way.renews


async def test_a_lease_that_is_not_renewed_is_said_not_to_be() -> None:
    """A replica without a lease, and an earlier life of one that has one, go on with heartbeats."""
    async with open_way() as (router, way):
        assert way.fed
        assert not way.renews
        lease(router, born_ms=7)
        await way.send(events(2, born_ms=6))
        assert not way.renews
        await way.send(events(3, born_ms=7))
        assert way.renews


async def test_a_message_long_ago_renews_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine whose reports hang says so by their silence."""
    async with running_router() as router, way_to(router) as way:
        lease(router)
        await way.send(events(0, snapshot=True))
        await way.send(events(1))
        assert way.renews
        monkeypatch.setattr(transport, "RENEWED_FOR_S", 0.0)
        assert not way.renews
