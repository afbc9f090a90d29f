"""A replica from start to end: registration, drain, stop."""

from __future__ import annotations

import asyncio
import json
import socket

import httpx
import msgspec
import pytest
from admin_stub import admin
from router_fixture import client_of as admin_of
from router_fixture import running_router
from sim_replica import chat_body, client_of, connection_to, post, read_chunks, read_head, read_response, replica

from pointsman.contract.registration import Registration
from pointsman.engine.sim.config import SimConfig
from pointsman.engine.sim.errors import SimConfigError
from pointsman.engine.sim.server import SimServer


async def until_busy(server: SimServer, connections: int) -> None:
    """Until so many connections are in the middle of a request or an answer."""
    while sum(not connection.idle for connection in server.service.connections) < connections:
        await asyncio.sleep(0)


async def test_a_drain_lets_answers_finish_and_takes_no_more() -> None:
    """The stream comes to its end; a connection that is open gets 503, a new one is refused."""
    async with (
        replica(token_interval_ms=20) as server,
        connection_to(server) as (reader, writer),
        connection_to(server) as (other_reader, other_writer),
    ):
        writer.write(post("/v1/chat/completions", chat_body(max_tokens=10, ignore_eos=True, stream=True)))
        await read_head(reader)
        # The other connection is in the middle of a request, so it is not idle and stays.
        request = post("/v1/chat/completions", chat_body())
        other_writer.write(request[:-1])
        await until_busy(server, 2)
        draining = asyncio.create_task(server.drain())
        while not server.draining:
            await asyncio.sleep(0)
        other_writer.write(request[-1:])
        head, body = await read_response(other_reader)
        assert head.startswith(b"HTTP/1.1 503 ")
        assert b"connection: close" in head and b"retry-after: 1" in head
        assert json.loads(body)["error"]["code"] == 503
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", server.port)
        assert len(await read_chunks(reader)) == 1 + 10 + 1
        assert await draining is True


async def test_health_is_503_while_draining() -> None:
    """For a checker whose request had begun to come in."""
    async with replica() as server, connection_to(server) as (reader, writer):
        writer.write(b"POST /ping HTTP/1.1\r\ncontent-length: 1\r\n\r\n")
        await until_busy(server, 1)
        assert await server.drain() is True
        writer.write(b"x")
        assert (await read_head(reader)).startswith(b"HTTP/1.1 503 ")


async def test_a_drain_has_an_end() -> None:
    """A stream that would take an hour is cut after `drain_s`; the drain says so, and nothing stays held."""
    async with replica(token_interval_ms=60_000, drain_s=0.01) as server:
        async with connection_to(server) as (reader, writer):
            writer.write(post("/v1/chat/completions", chat_body(max_tokens=60, ignore_eos=True, stream=True)))
            await read_head(reader)
            assert await server.drain() is False
            await server.stop()
            assert not (await reader.read()).endswith(b"0\r\n\r\n")
        assert server.in_flight == 0
        assert server.model.stats().kv_usage == 0.0


async def test_routers_are_asked_for_no_more_before_anything_is_refused() -> None:
    """PUT while it lives, POST .../drain, DELETE at the end; in between, a request that was on its way is served."""
    options = {"replica_id": "r1", "heartbeat_s": 60.0, "events": False}
    async with admin() as router, replica(register=(router.url,), **options) as server:
        await router.wait_said(1)
        draining = asyncio.create_task(server.drain())
        await router.wait_said(2)
        async with client_of(server) as client:
            assert (await client.post("/v1/completions", json={"prompt": "x"})).status_code == 200
        assert await draining is True
        registered = msgspec.convert(router.said[0][2], Registration)
        born_ms = registered.born_ms
        assert registered == Registration(url=server.url, model="sim", ttl_s=10.0, born_ms=born_ms, renames_model=True)
        # An earlier incarnation under the same id neither drains nor removes a later one.
        assert [said[:2] for said in router.said] == [
            ("PUT", "r1"),
            ("POST", f"r1/drain?born_ms={born_ms}"),
            ("DELETE", f"r1?born_ms={born_ms}"),
        ]


async def test_a_replica_is_registered_and_reports_as_of_one_start() -> None:
    """As real engines do: a later process of the same id takes its place, and its reports are of the same life."""
    async with running_router() as router, admin_of(router) as client:
        register = (f"http://{router.addresses['admin']}",)
        async with replica(register=register, replica_id="r1", heartbeat_s=0.05) as early:
            await until_born(client, early)
            async with replica(register=register, replica_id="r1", heartbeat_s=0.05) as late:
                await until_born(client, late)
                await asyncio.sleep(0.2)
                assert (await client.get("/v1/replicas/r1")).json()["url"] == late.url, "the early one is refused"
                assert late._generation.reporter.publisher.facts.born_ms == late._born_ms > early._born_ms > 0


async def until_born(client: httpx.AsyncClient, server: SimServer) -> None:
    """Until a router has this incarnation."""
    async with asyncio.timeout(20):
        while (await client.get("/v1/replicas/r1")).json().get("url") != server.url:
            await asyncio.sleep(0.01)


async def test_two_replicas_live_in_one_process() -> None:
    """Own ports, own models, own counts."""
    async with replica(model="one") as one, replica(model="two") as two:
        assert one.port != two.port
        async with client_of(one) as client:
            await client.post("/v1/completions", json={"prompt": "x", "max_tokens": 1})
        assert one.model.stats().finished == 1
        assert two.model.stats().finished == 0


async def test_an_address_in_use_is_a_configuration_error() -> None:
    """The port is named."""
    async with replica() as server:
        with pytest.raises(SimConfigError, match=f"port: got {server.port}"):
            await SimServer(SimConfig(port=server.port)).start()


def has_ipv6_loopback() -> bool:
    """Containers often have none."""
    with socket.socket(socket.AF_INET6) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError:
            return False
    return True


@pytest.mark.skipif(not has_ipv6_loopback(), reason="no IPv6 loopback here")
async def test_ipv6_has_its_brackets() -> None:
    """The URL is one a client can use."""
    async with replica(host="::1") as server:
        assert server.url == f"http://[::1]:{server.port}"
        async with client_of(server) as client:
            assert (await client.get("/health")).status_code == 200


async def test_routers_are_told_the_given_url() -> None:
    """Behind a proxy or in a container, the bound address is not the one to use."""
    async with replica(url="http://replica.example:8000") as server:
        assert server.url == "http://replica.example:8000"
