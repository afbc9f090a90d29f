"""Faults on demand, over real sockets: what is in front of a replica sees them as those of a real one."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from sim_replica import client_of, connection_to, replica

from pointsman.engine.sim.errors import RequestError
from pointsman.engine.sim.faults import Faults


async def fault(client: httpx.AsyncClient, **switches: object) -> None:
    """Set switches."""
    assert (await client.post("/sim/fault", json=switches)).status_code == 200


async def test_health_can_be_bad() -> None:
    """503 until it is good again; generation goes on."""
    async with replica(faults=True) as server, client_of(server) as client:
        await fault(client, health=False)
        assert (await client.get("/health")).status_code == 503
        assert (await client.post("/v1/completions", json={"prompt": "x"})).status_code == 200
        await fault(client, health=True)
        assert (await client.get("/health")).status_code == 200


async def test_connections_can_be_refused_and_taken_again() -> None:
    """The port closes for others; the connection that asked for it can undo it, on the same port."""
    async with replica(faults=True) as server, client_of(server) as client, connection_to(server) as (reader, _):
        await fault(client, refuse=True)
        assert await reader.read() == b""
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", server.port)
        await fault(client, refuse=False)
        async with client_of(server) as other:
            assert (await other.get("/health")).status_code == 200


async def test_requests_can_hang() -> None:
    """Read, not answered; answered when the fault is over. Health is not concerned."""
    async with replica(faults=True) as server, client_of(server) as client:
        await fault(client, hang=True)
        hanging = asyncio.create_task(client.post("/v1/completions", json={"prompt": "x", "max_tokens": 1}))
        while not (await client.get("/sim/stats")).json()["hung"]:
            pass
        assert (await client.get("/health")).status_code == 200
        assert not hanging.done()
        await fault(client, hang=False)
        assert (await hanging).status_code == 200


async def test_requests_can_be_reset_before_an_answer() -> None:
    """Two of them; the third is served."""
    async with replica(faults=True) as server, client_of(server) as client:
        await fault(client, reset_before_response=2)
        for _ in range(2):
            with pytest.raises(httpx.ReadError):
                await client.post("/v1/completions", json={"prompt": "x"})
        assert (await client.post("/v1/completions", json={"prompt": "x"})).status_code == 200


async def test_streams_can_be_cut() -> None:
    """After three tokens, with a reset; the engine stops computing."""
    async with replica(faults=True, token_interval_ms=1) as server, client_of(server) as client:
        await fault(client, reset_after_tokens=3)
        with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
            await client.post("/v1/completions", json={"prompt": "x", "max_tokens": 500, "stream": True})
        while server.in_flight:
            await asyncio.sleep(0)
        assert server.model.stats().aborted == 1


async def test_requests_can_fail() -> None:
    """One 500, then business as usual."""
    async with replica(faults=True) as server, client_of(server) as client:
        await fault(client, error_status=500, error_count=1)
        answers = [await client.post("/v1/completions", json={"prompt": "x"}) for _ in range(2)]
        assert [answer.status_code for answer in answers] == [500, 200]


async def test_streams_can_stall() -> None:
    """The head of the answer comes, and no token."""
    async with replica(faults=True) as server, client_of(server) as client:
        await fault(client, stall=True)
        body = {"prompt": "x", "max_tokens": 5, "stream": True}
        async with client.stream("POST", "/v1/completions", json=body) as answer:
            assert answer.status_code == 200
            assert server.in_flight == 1
            assert server.model.stats().running == server.model.stats().waiting == 0


async def test_a_replica_can_be_slow() -> None:
    """Its engine's timeline runs ten times slower; a factor below 1 is no slowness."""
    async with replica(faults=True) as server, client_of(server) as client:
        await fault(client, slowness=10)
        assert server._generation._driver.slowness == 10
        assert (await client.post("/sim/fault", json={"slowness": 0.5})).status_code == 400


async def test_switches_are_shown_and_unknown_ones_refused() -> None:
    """GET says how they stand; a wrong name or type is 400 and changes nothing."""
    async with replica(faults=True) as server, client_of(server) as client:
        for wrong in (b'{"helth": false}', b'{"health": 5}', b"[]", b""):
            assert (await client.post("/sim/fault", content=wrong)).status_code == 400
        shown = (await client.get("/sim/fault")).json()
        assert shown["health"] is True and shown["reset_after_tokens"] == 0


async def test_counters_are_shown() -> None:
    """The model's stats, what is in flight, and how requests ended."""
    async with replica(faults=True) as server, client_of(server) as client:
        await client.post("/v1/completions", json={"prompt": "x", "max_tokens": 2, "ignore_eos": True})
        shown = (await client.get("/sim/stats")).json()
        assert (shown["in_flight"], shown["hung"]) == (0, 0)
        assert shown["finished_by_reason"] == {"stop": 0, "length": 1, "abort": 0}
        assert shown["engine"]["generation_tokens"] == 2


def test_only_what_is_named_changes() -> None:
    """The others stand as they did."""
    faults = Faults(hang=True).updated(b'{"error_status": 500, "error_count": 2}')
    assert faults == Faults(hang=True, error_status=500, error_count=2)


@pytest.mark.parametrize("body", [b"", b"[]", b'{"hangs": true}', b'{"hang": "yes"}', b'{"slowness": 0.5}'])
def test_what_is_no_switch_is_refused_with_those_there_are(body: bytes) -> None:
    """A test that misspells one must not pass for a healthy replica."""
    with pytest.raises(RequestError, match="health_hang"):
        Faults().updated(body)
