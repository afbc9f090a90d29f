"""Pools in the admin API: leased by drivers, listed, and orders passed on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import uvicorn
from router_fixture import client_of, running_router
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pointsman.contract.pools import FleetLease, PoolStatus
from pointsman.contract.registration import Role
from pointsman.contract.tokens import hash_token

STATUS = PoolStatus(
    name="chat", model="m", role=Role.BOTH, replicas=2, replicas_max=8, ready=2, state="ready", revision="r"
)


class Driver:
    """What a driver's own API hears; it answers with `status` and `body`."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, str, bytes]] = []
        self.shown: list[str] = []
        """Authorization of each order."""
        self.status = 202
        self.body = msgspec.json.encode(STATUS)
        self.url = ""

    async def hear(self, request: Request) -> Response:
        self.shown.append(request.headers.get("authorization", ""))
        self.heard.append((request.method, request.url.path, await request.body()))
        return Response(self.body, self.status)


@asynccontextmanager
async def running_driver() -> AsyncIterator[Driver]:
    driver = Driver()
    app = Starlette(routes=[Route("/{path:path}", driver.hear, methods=["PUT", "POST"])])
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_config=None, lifespan="off"))
    task = asyncio.create_task(server._serve())
    while not server.started:
        await asyncio.sleep(0)
    driver.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    try:
        yield driver
    finally:
        server.should_exit = server.force_exit = True
        await task


async def lease(client: httpx.AsyncClient, control: str, fleet: str = "f") -> httpx.Response:
    body = msgspec.json.encode(FleetLease(control=control, ttl_s=10.0, pools=[STATUS]))
    headers = {"content-type": "application/json"}
    return await client.put(f"/v1/fleets/{fleet}", content=body, headers=headers)


async def test_pools_are_listed_with_their_fleet_until_it_leaves() -> None:
    """A lease makes them known at once; leaving forgets them."""
    async with running_router() as router, client_of(router) as client:
        assert (await lease(client, "http://127.0.0.1:1")).status_code == 201
        assert (await lease(client, "http://127.0.0.1:1")).status_code == 204
        (listed,) = (await client.get("/v1/pools")).json()["pools"]
        assert (listed["fleet"], listed["name"], listed["ready"]) == ("f", "chat", 2)
        assert (await client.get("/v1/pools/chat")).json() == listed
        assert (await client.delete("/v1/fleets/f")).status_code == 204
        assert (await client.get("/v1/pools")).json() == {"pools": []}


async def test_orders_are_passed_on_to_the_driver() -> None:
    """Method, path and body are the driver's business; so is the answer."""
    async with running_router() as router, client_of(router) as client, running_driver() as driver:
        await lease(client, driver.url)
        scaled = await client.post("/v1/pools/chat/scale", json={"replicas": 3})
        assert scaled.status_code == 202 and scaled.json()["fleet"] == "f"
        driver.status, driver.body = 422, b'{"error": {"message": "model: \'\'"}}'
        put = await client.put("/v1/pools/chat", json={"model": ""})
        assert put.status_code == 422 and "model" in put.json()["detail"]
        assert driver.heard == [
            ("POST", "/v1/pools/chat/scale", b'{"replicas":3}'),
            ("PUT", "/v1/pools/chat", b'{"model":""}'),
        ]


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "says"),
    [
        pytest.param("POST", "/v1/pools/chatt/scale", {"replicas": 1}, 404, "there are: chat", id="unknown pool"),
        pytest.param("PUT", "/v1/pools/chatt", {}, 404, "there are: chat", id="change unknown"),
        pytest.param("POST", "/v1/pools/chat/scale", {"replicas": 9}, 422, "expected 1 to 8", id="too many"),
        pytest.param(
            "POST", "/v1/pools/chat/scale", {"replicas": 0}, 422, "expected an integer from 1 to", id="too few"
        ),
        pytest.param("POST", "/v1/pools/chat/scale", {"size": 1}, 422, "size", id="misspelt"),
        pytest.param("POST", "/v1/pools/chat/scale", {"replicas": 1}, 503, "cannot be reached", id="driver away"),
        pytest.param("PUT", "/v1/fleets/a%20b", {}, 422, "a b", id="bad name"),
        pytest.param("PUT", "/v1/fleets/g", {"control": "x", "ttl_s": 9, "pools": []}, 422, "http://", id="bad url"),
        pytest.param("DELETE", "/v1/fleets/g", None, 404, "'g'", id="unknown fleet"),
    ],
)
async def test_refusals_say_what_was_expected(method: str, path: str, body: Any, status: int, says: str) -> None:
    """In the shape of all errors."""
    async with running_router() as router, client_of(router) as client:
        await lease(client, "http://127.0.0.1:1")
        answer = await client.request(method, path, json=body)
        assert answer.status_code == status, answer.text
        assert says in answer.json()["detail"]


async def test_a_pool_of_another_fleet_is_refused() -> None:
    """409, naming who has it."""
    async with running_router() as router, client_of(router) as client:
        await lease(client, "http://127.0.0.1:1")
        answer = await lease(client, "http://127.0.0.1:2", fleet="g")
        assert answer.status_code == 409 and "'f'" in answer.json()["detail"]


async def test_orders_carry_the_token_that_the_driver_registered_with(tmp_path: Path) -> None:
    """A token that may only register must not earn one that may do more."""
    tokens = tmp_path / "tokens.yaml"
    tokens.write_text(f"tokens: [{{name: fleet, roles: [engine], sha256: {hash_token('mine')}}}]")
    admin = {"port": 0, "token": "all", "tokens_file": str(tokens)}
    async with running_router(admin=admin) as router, client_of(router) as client, running_driver() as driver:
        client.headers["authorization"] = "Bearer mine"
        assert (await lease(client, driver.url)).status_code == 201
        assert (await client.post("/v1/pools/chat/scale", json={"replicas": 3})).status_code == 403
        client.headers["authorization"] = "Bearer all"
        assert (await client.post("/v1/pools/chat/scale", json={"replicas": 3})).status_code == 202
        assert driver.shown == ["Bearer mine"]


async def test_an_order_for_another_version_is_not_passed_on() -> None:
    """Somebody else scaled the pool in the meantime: 412, with the version there is."""
    async with running_router() as router, client_of(router) as client, running_driver() as driver:
        await lease(client, driver.url)
        etag = (await client.get("/v1/pools/chat")).headers["etag"]
        driver.body = msgspec.json.encode(msgspec.structs.replace(STATUS, replicas=3))
        first = await client.post("/v1/pools/chat/scale", json={"replicas": 3}, headers={"if-match": etag})
        assert first.status_code == 202 and first.headers["etag"] != etag
        second = await client.post("/v1/pools/chat/scale", json={"replicas": 4}, headers={"if-match": etag})
        assert second.status_code == 412 and first.headers["etag"] in second.json()["detail"]
        assert len(driver.heard) == 1


@pytest.mark.parametrize("body", [b"", b"no json", b'{"error": "x"}', b"\xff" * 10_000, b"[" * 5000])
async def test_a_refusal_in_another_shape_is_passed_on_as_it_is(body: bytes) -> None:
    """In part, when it is long."""
    async with running_router() as router, client_of(router) as client, running_driver() as driver:
        await lease(client, driver.url)
        driver.status, driver.body = 409, body
        answer = await client.post("/v1/pools/chat/scale", json={"replicas": 3})
        assert answer.status_code == 409 and len(answer.json()["detail"]) <= 500
