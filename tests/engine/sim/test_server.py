"""A replica's routes and its life: health, echo, drain, stop."""

from __future__ import annotations

import asyncio
import hashlib
import json
import socket

import httpx
import msgspec
import pytest
from admin_stub import admin
from sim_replica import chat_body, client_of, connection_to, post, read_chunks, read_head, read_response, replica

from pointsman.contract.registration import Registration
from pointsman.engine.sim.config import SimConfig
from pointsman.engine.sim.errors import SimConfigError
from pointsman.engine.sim.server import SimServer


async def until_busy(server: SimServer, connections: int) -> None:
    """Until so many connections are in the middle of a request or an answer."""
    while sum(not connection.idle for connection in server.service.connections) < connections:
        await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("method", "path", "status", "body"),
    [
        pytest.param("GET", "/health", 200, b"", id="health"),
        pytest.param("GET", "/version", 200, b'{"version":"0.32.0+sim"}', id="version"),
        pytest.param("GET", "/load", 200, b'{"server_load":0}', id="load"),
        pytest.param("GET", "/nope", 404, b'{"detail":"Not Found"}', id="no such path"),
        pytest.param("GET", "/v1/chat/completions", 405, b'{"detail":"Method Not Allowed"}', id="not that way"),
        pytest.param("HEAD", "/health", 405, b"", id="no HEAD"),
        pytest.param("GET", "/echo", 404, b'{"detail":"Not Found"}', id="echo is off"),
        pytest.param("POST", "/sim/fault", 404, b'{"detail":"Not Found"}', id="faults are off"),
    ],
)
async def test_a_route_answers_as_vllm_does(method: str, path: str, status: int, body: bytes) -> None:
    """Status and body, byte for byte."""
    async with replica() as server, client_of(server) as client:
        answer = await client.request(method, path)
        assert (answer.status_code, answer.content) == (status, body)
        assert answer.headers["server"] == "uvicorn"


async def test_a_method_that_is_not_allowed_is_told_which_is() -> None:
    """405 names POST."""
    async with replica() as server, client_of(server) as client:
        assert (await client.get("/v1/completions")).headers["allow"] == "POST"


async def test_the_model_is_listed_with_its_context_length() -> None:
    """One card, vLLM's fields."""
    async with replica(model="tiny", max_model_len=4_096) as server, client_of(server) as client:
        (card,) = (await client.get("/v1/models")).json()["data"]
        assert (card["id"], card["root"], card["max_model_len"], card["owned_by"]) == ("tiny", "tiny", 4_096, "vllm")


async def test_load_counts_what_is_being_served() -> None:
    """One stream under way."""
    async with replica(token_interval_ms=60_000) as server, connection_to(server) as (reader, writer):
        writer.write(post("/v1/chat/completions", chat_body(stream=True)))
        await read_head(reader)
        async with client_of(server) as client:
            assert (await client.get("/load")).json() == {"server_load": 1}


async def test_echo_says_what_arrived() -> None:
    """Method, path and query undecoded, every header in order and by lower-case name, length and digest of the body."""
    body = bytes(range(256)) * 100
    async with replica(echo=True, replica_id="r7") as server, connection_to(server) as (reader, writer):
        head = b"PATCH /echo/a%2Fb?x=%20&y HTTP/1.1\r\nHost: h\r\nX-Two: 1\r\nx-two: 2\r\nContent-Length: 25600\r\n\r\n"
        writer.write(head + body)
        _, answer = await read_response(reader)
        assert json.loads(answer) == {
            "method": "PATCH",
            "path": "/echo/a%2Fb",
            "query": "x=%20&y",
            "headers": [["host", "h"], ["x-two", "1"], ["x-two", "2"], ["content-length", "25600"]],
            "body_sha256": hashlib.sha256(body).hexdigest(),
            "body_bytes": 25_600,
            "replica": "r7",
        }


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
        assert [said[:2] for said in router.said] == [("PUT", "r1"), ("POST", "r1/drain"), ("DELETE", "r1")]
        assert msgspec.convert(router.said[0][2], Registration) == Registration(url=server.url, model="sim", ttl_s=10.0)


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


class TestFaults:
    """Faults on demand."""

    async def fault(self, client: httpx.AsyncClient, **switches: object) -> None:
        """Set switches."""
        assert (await client.post("/sim/fault", json=switches)).status_code == 200

    async def test_health_can_be_bad(self) -> None:
        """503 until it is good again; generation goes on."""
        async with replica(faults=True) as server, client_of(server) as client:
            await self.fault(client, health=False)
            assert (await client.get("/health")).status_code == 503
            assert (await client.post("/v1/completions", json={"prompt": "x"})).status_code == 200
            await self.fault(client, health=True)
            assert (await client.get("/health")).status_code == 200

    async def test_connections_can_be_refused_and_taken_again(self) -> None:
        """The port closes for others; the connection that asked for it can undo it, on the same port."""
        async with replica(faults=True) as server, client_of(server) as client, connection_to(server) as (reader, _):
            await self.fault(client, refuse=True)
            assert await reader.read() == b""
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection("127.0.0.1", server.port)
            await self.fault(client, refuse=False)
            async with client_of(server) as other:
                assert (await other.get("/health")).status_code == 200

    async def test_requests_can_hang(self) -> None:
        """Read, not answered; answered when the fault is over. Health is not concerned."""
        async with replica(faults=True) as server, client_of(server) as client:
            await self.fault(client, hang=True)
            hanging = asyncio.create_task(client.post("/v1/completions", json={"prompt": "x", "max_tokens": 1}))
            while not (await client.get("/sim/stats")).json()["hung"]:
                pass
            assert (await client.get("/health")).status_code == 200
            assert not hanging.done()
            await self.fault(client, hang=False)
            assert (await hanging).status_code == 200

    async def test_requests_can_be_reset_before_an_answer(self) -> None:
        """Two of them; the third is served."""
        async with replica(faults=True) as server, client_of(server) as client:
            await self.fault(client, reset_before_response=2)
            for _ in range(2):
                with pytest.raises(httpx.ReadError):
                    await client.post("/v1/completions", json={"prompt": "x"})
            assert (await client.post("/v1/completions", json={"prompt": "x"})).status_code == 200

    async def test_streams_can_be_cut(self) -> None:
        """After three tokens, with a reset; the engine stops computing."""
        async with replica(faults=True, token_interval_ms=1) as server, client_of(server) as client:
            await self.fault(client, reset_after_tokens=3)
            with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
                await client.post("/v1/completions", json={"prompt": "x", "max_tokens": 500, "stream": True})
            while server.in_flight:
                await asyncio.sleep(0)
            assert server.model.stats().aborted == 1

    async def test_requests_can_fail(self) -> None:
        """One 500, then business as usual."""
        async with replica(faults=True) as server, client_of(server) as client:
            await self.fault(client, error_status=500, error_count=1)
            answers = [await client.post("/v1/completions", json={"prompt": "x"}) for _ in range(2)]
            assert [answer.status_code for answer in answers] == [500, 200]

    async def test_streams_can_stall(self) -> None:
        """The head of the answer comes, and no token."""
        async with replica(faults=True) as server, client_of(server) as client:
            await self.fault(client, stall=True)
            body = {"prompt": "x", "max_tokens": 5, "stream": True}
            async with client.stream("POST", "/v1/completions", json=body) as answer:
                assert answer.status_code == 200
                assert server.in_flight == 1
                assert server.model.stats().running == server.model.stats().waiting == 0

    async def test_a_replica_can_be_slow(self) -> None:
        """Its engine's timeline runs ten times slower; a factor below 1 is no slowness."""
        async with replica(faults=True) as server, client_of(server) as client:
            await self.fault(client, slowness=10)
            assert server._generation._driver.slowness == 10
            assert (await client.post("/sim/fault", json={"slowness": 0.5})).status_code == 400

    async def test_switches_are_shown_and_unknown_ones_refused(self) -> None:
        """GET says how they stand; a wrong name or type is 400 and changes nothing."""
        async with replica(faults=True) as server, client_of(server) as client:
            for wrong in (b'{"helth": false}', b'{"health": 5}', b"[]", b""):
                assert (await client.post("/sim/fault", content=wrong)).status_code == 400
            shown = (await client.get("/sim/fault")).json()
            assert shown["health"] is True and shown["reset_after_tokens"] == 0

    async def test_counters_are_shown(self) -> None:
        """The model's stats, what is in flight, and how requests ended."""
        async with replica(faults=True) as server, client_of(server) as client:
            await client.post("/v1/completions", json={"prompt": "x", "max_tokens": 2, "ignore_eos": True})
            shown = (await client.get("/sim/stats")).json()
            assert (shown["in_flight"], shown["hung"]) == (0, 0)
            assert shown["finished_by_reason"] == {"stop": 0, "length": 1, "abort": 0}
            assert shown["engine"]["generation_tokens"] == 2
