"""What the admin API checks before a handler: who asks, which parameters, which media type."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from router_fixture import client_of, register, running_router
from starlette.requests import Request

from pointsman.router.fronts import admin_token
from pointsman.router.fronts.admin_token import AdminTokens
from pointsman.router.fronts.api.endpoint import Endpoint
from pointsman.router.fronts.api.guard import Check, Guard
from pointsman.router.fronts.hosts import host_of, is_loopback

LOOPBACK = ["127.0.0.1:8001", "localhost", "localhost:1", "LOCALHOST:8001", "127.8.9.10", "[::1]:8001", "localhost.:80"]
FOREIGN = ["rebind.example", "rebind.example:8001", "10.0.0.7:8001", "0.0.0.0:8001", "localhost.example", "", "[::1",
           "127.0.0.1.example", "a@127.0.0.1.example"]  # fmt: skip


async def test_a_loopback_host_is_served() -> None:
    """By whatever name or port: a tunnel to this machine has ports of its own."""
    async with running_router() as router, client_of(router) as client:
        for host in LOOPBACK:
            assert (await client.get("/v1/replicas", headers={"host": host})).status_code == 200, host


async def test_a_rebinding_host_is_refused() -> None:
    """403 and one sentence, on `/v1` and beside it; the request is counted and changes nothing."""
    requests = (("POST", "/v1/replicas/a/drain"), ("GET", "/metrics"), ("GET", "/readyz"))
    async with running_router() as router, client_of(router) as client:
        await register(router, "a")
        for host in FOREIGN:
            for method, path in requests:
                answer = await client.request(method, path, headers={"host": host})
                assert answer.status_code == 403, host
                assert "admin.hosts" in answer.json()["detail"]
        assert (await client.get("/v1/replicas/a")).json()["state"] == "up"
        count = len(FOREIGN) * len(requests)
        assert f'pointsman_admin_refused_total{{check="host"}} {count}.0' in (await client.get("/metrics")).text


async def test_a_configured_host_is_served() -> None:
    """That of a reverse proxy on this machine; with one that is not, nothing changes."""
    async with running_router(admin={"port": 0, "hosts": ["Admin.Example"]}) as router, client_of(router) as client:
        assert (await client.get("/v1/replicas", headers={"host": "admin.example:443"})).status_code == 200
        assert (await client.get("/v1/replicas", headers={"host": "other.example"})).status_code == 403


async def test_a_host_given_twice_is_refused() -> None:
    """A proxy and this router could each believe another one."""
    async with running_router() as router:
        address = router.addresses["admin"]
        reader, writer = await asyncio.open_connection(address.host, address.port)
        writer.write(b"GET /livez HTTP/1.1\r\nhost: 127.0.0.1\r\nhost: a.example\r\nconnection: close\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 403 ")
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({"sec-fetch-site": "cross-site"}, id="cross-site"),
        pytest.param({"sec-fetch-site": "same-site"}, id="another port of this machine"),
        pytest.param({"origin": "https://attacker.example"}, id="foreign origin"),
        pytest.param({"origin": "null"}, id="sandboxed frame"),
        pytest.param({"origin": "http://127.0.0.1:3000"}, id="origin on another port"),
        pytest.param({"origin": "https://attacker.example", "content-type": "text/plain"}, id="form post"),
    ],
)
async def test_a_page_of_another_origin_is_refused(headers: dict[str, str]) -> None:
    """A cross-site drain, as a form posts it without a preflight: 403, counted, and the replica stays up."""
    async with running_router() as router, client_of(router) as client:
        await register(router, "a")
        answer = await client.post("/v1/replicas/a/drain", headers=headers)
        assert answer.status_code == 403 and "another origin" in answer.json()["detail"]
        assert (await client.get("/v1/replicas/a")).json()["state"] == "up"
        assert 'pointsman_admin_refused_total{check="origin"} 1.0' in (await client.get("/metrics")).text


@pytest.mark.parametrize("site", ["same-origin", "none"])
async def test_a_page_of_this_origin_is_served(site: str) -> None:
    """And an address typed into a browser."""
    async with running_router() as router, client_of(router) as client:
        origin = {"origin": str(client.base_url).rstrip("/"), "sec-fetch-site": site}
        assert (await client.put("/v1/policy", json={"policy": "random"}, headers=origin)).status_code == 200


async def test_with_a_token_the_token_decides() -> None:
    """Replicas register by names of all kinds; what it does not replace are types and parameters."""
    headers = {"authorization": "Bearer s3cret", "host": "edge:8001"}
    async with running_router(admin={"port": 0, "token": "s3cret"}) as router, client_of(router) as client:
        assert (await client.get("/v1/replicas", headers=headers)).status_code == 200
        assert (await client.get("/metrics", headers={"host": "edge:8001"})).status_code == 200
        assert (await client.get("/v1/replicas?x=1", headers=headers)).status_code == 422
        plain = headers | {"content-type": "text/plain"}
        assert (await client.put("/v1/policy", content=b"{}", headers=plain)).status_code == 415


async def test_unknown_parameters_are_refused_by_name() -> None:
    """`?dryrun=true` is told of `dry_run` and puts nothing live."""
    async with running_router() as router, client_of(router) as client:
        answer = await client.put("/v1/policy?dryrun=true", json={"policy": "random"})
        assert answer.status_code == 422
        assert answer.json()["detail"] == (
            "query: unknown parameter 'dryrun' (did you mean 'dry_run'?); known parameters are dry_run, why"
        )
        assert (await client.get("/v1/policy")).json()["policy"] == "kv_cost"


@pytest.mark.parametrize("query", ["dry_run=ture", "dry_run=", "dry_run=2", "dry_run=true&dry_run=false"])
async def test_a_flag_is_a_boolean_given_once(query: str) -> None:
    """What is misspelt must not count as false, and put live what was to be checked."""
    async with running_router() as router, client_of(router) as client:
        answer = await client.put(f"/v1/policy?{query}", json={"policy": "random"})
        assert answer.status_code == 422 and "dry_run" in answer.json()["detail"]
        assert (await client.get("/v1/policy")).json()["policy"] == "kv_cost"


async def test_every_route_refuses_parameters_it_does_not_have() -> None:
    """No operation of `/v1` is forgotten."""
    async with running_router() as router, client_of(router) as client:
        for route in router.admin.app().routes:
            if route.path.startswith("/v1"):  # type: ignore[attr-defined]
                for method in route.methods - {"HEAD"}:  # type: ignore[attr-defined]
                    words = {"id": "a", "name": "a", "key": "a", "revision": 1}
                    path = route.path.replace(":path", "").format(**words)  # type: ignore[attr-defined]
                    assert (await client.request(method, f"{path}?nonsense=1")).status_code == 422, path


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        pytest.param({}, 415, id="no type"),
        pytest.param({"content-type": "text/plain"}, 415, id="plain text"),
        pytest.param({"content-type": "application/x-www-form-urlencoded"}, 415, id="form"),
        pytest.param({"content-type": "application/msgpack"}, 415, id="msgpack where JSON is read"),
        pytest.param({"content-type": "application/json"}, 200, id="json"),
        pytest.param({"content-type": "Application/JSON; charset=utf-8"}, 200, id="json with a parameter"),
    ],
)
async def test_a_body_has_the_type_that_is_read(headers: dict[str, str], status: int) -> None:
    """Whole or in chunks; the refusal names what is expected."""

    async def chunks() -> Any:
        yield b'{"policy": "random"}'

    async with running_router() as router, client_of(router) as client:
        for content in (b'{"policy": "random"}', chunks()):
            answer = await client.put("/v1/policy", content=content, headers=headers)
            assert answer.status_code == status, answer.text
            assert status == 200 or "application/json is expected" in answer.json()["detail"]


async def test_no_body_needs_no_type() -> None:
    """As of a drain by curl."""
    async with running_router() as router, client_of(router) as client:
        await register(router, "a")
        form = {"content-type": "application/x-www-form-urlencoded"}
        assert (await client.post("/v1/replicas/a/drain", headers=form)).status_code == 200


async def test_wrong_tokens_are_counted_and_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is one more in the metric, and its answer comes after the delay."""
    waits = []

    async def sleep(delay_s: float) -> None:
        waits.append(delay_s)

    monkeypatch.setattr(admin_token.asyncio, "sleep", sleep)
    token = AdminTokens("s3cret")
    guard = Guard(token)

    async def handler(request: Request) -> Any:
        raise AssertionError("a wrong token reached the handler")

    for given in ("", "Bearer ", "Bearer wrong", "Basic s3cret", "Bearer s3cret "):
        request = make_request({"authorization": given})
        with pytest.raises(Exception, match="401"):
            await guard.guarded(Endpoint("GET", "/v1/replicas", handler), handler)(request)
    assert waits == [admin_token.DELAY_S] * 5
    assert guard.refused == {Check.TOKEN: 5}


def make_request(headers: dict[str, str]) -> Any:
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    return Request({"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": raw, "client": None})


def test_what_a_host_header_names() -> None:
    """Without port and brackets, in lower case."""
    assert [host_of(header) for header in ("A.b:80", "[::1]:8001", "::1", "a:b:c", "[")] == ["a.b", "::1", "", "a", ""]
    assert is_loopback("127.1.2.3") and is_loopback("::1") and not is_loopback("")


@pytest.mark.parametrize("front", ["lookup", "hold"])
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        pytest.param({"origin": "https://attacker.example"}, 403, id="form post of a page"),
        pytest.param({"sec-fetch-site": "same-origin"}, 403, id="page that rebinds"),
        pytest.param({"host": "rebind.example:9102"}, 403, id="rebinding host"),
        pytest.param({"host": "pointsman"}, 200, id="HAProxy"),
        pytest.param({"host": "localhost:9102"}, 200, id="curl"),
    ],
)
async def test_a_page_cannot_ask_for_decisions(front: str, headers: dict[str, str], status: int) -> None:
    """A lookup reserves; only HAProxy and programs of this machine may ask for one."""
    async with running_router() as router, client_of(router, "lookup") as client:
        await register(router, "a")
        answer = await client.post(f"/{front}", content="id=1&path=/v1/completions", headers=headers)
        assert answer.status_code == status, answer.text
        assert len(router.core.load) == (status == 200)


async def test_a_proxied_lookup_over_a_unix_socket_has_any_host(tmp_path: Any) -> None:
    """The mode of the file decides there; the fleet's models are asked for by clients' hosts."""
    path = str(tmp_path / "lookup.sock")
    async with running_router(lookup={"path": path}) as router:
        await register(router, "a")
        transport = httpx.AsyncHTTPTransport(uds=path)
        async with httpx.AsyncClient(transport=transport, base_url="http://api.example") as client:
            assert "first=a" in (await client.post("/lookup", content="id=1&path=/v1/completions")).text
            assert (await client.get("/v1/models")).status_code == 200
        assert (tmp_path / "lookup.sock").stat().st_mode & 0o777 == 0o600
        assert str(router.addresses["lookup"]) == f"unix@{path}"
    assert list(tmp_path.iterdir()) == []
