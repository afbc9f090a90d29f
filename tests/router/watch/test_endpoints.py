"""Where replicas may be: which URLs and addresses are taken, and what names cost."""

from __future__ import annotations

import asyncio
import threading
from ipaddress import IPv4Address, ip_address
from pathlib import Path

import pytest
from router_fixture import client_of, running_router

from pointsman.router.errors import RegistrationError, ResolveError
from pointsman.router.watch import endpoints
from pointsman.router.watch.endpoints import EndpointResolver, parse_endpoint


@pytest.mark.parametrize(
    ("url", "says"),
    [
        pytest.param("http://user:secret@127.0.0.1:9", "user or password", id="password"),
        pytest.param("http://user@127.0.0.1:9", "user or password", id="user"),
        pytest.param("http://127.0.0.1:0", "port from 1 to 65535", id="port 0"),
        pytest.param("http://127.0.0.1:9/#x", "expected http://HOST:PORT", id="fragment"),
        pytest.param("http://169.254.169.254:80", "link-local", id="metadata service"),
        pytest.param("http://[::ffff:169.254.169.254]:80", "link-local", id="the same, as IPv6"),
        pytest.param("http://0xA9FEA9FE:80", "link-local", id="the same, as a number"),
        pytest.param("http://[fe80::1]:80", "link-local", id="link-local IPv6"),
        pytest.param("http://0:9", "expected the address of one machine", id="any address"),
        pytest.param("http://224.0.0.1:9", "expected the address of one machine", id="multicast"),
        pytest.param("http://a\x00b:9", "has no address", id="null byte"),
        pytest.param(f"http://{'a' * 70}:9", "has no address", id="a label too long"),
    ],
)
async def test_an_address_no_replica_should_have_is_refused(url: str, says: str) -> None:
    """One sentence, and never the password."""
    resolver = EndpointResolver()
    with pytest.raises(RegistrationError, match=says) as refused:
        await resolver.resolve(url)
    assert "secret" not in str(refused.value)
    resolver.close()


async def test_only_listed_networks_are_taken() -> None:
    """By the resolved address, IPv4 in IPv6 clothes included; the refusal names the setting and its networks."""
    resolver = EndpointResolver(["127.0.0.0/8", "10.0.0.0/16"])
    assert await resolver.resolve("http://localhost:9") == ("127.0.0.1", 9)
    assert await resolver.resolve("http://10.0.255.1:9") == ("10.0.255.1", 9)
    resolver.check(ip_address("::ffff:10.0.0.1"))
    for outside in ("http://10.1.0.1:9", "http://[::1]:9"):
        with pytest.raises(RegistrationError, match=r"admin\.engine_networks \(127\.0\.0\.0/8, 10\.0\.0\.0/16\)"):
            await resolver.resolve(outside)
    await EndpointResolver(["169.254.0.0/16"]).resolve("http://169.254.169.254:80")
    resolver.close()


async def test_replicas_and_fleets_outside_are_refused() -> None:
    """422 for both, and nothing is registered."""
    pools = {"ttl_s": 9, "pools": []}
    networks = {"port": 0, "engine_networks": ["10.0.0.0/8"]}
    async with running_router(admin=networks) as router, client_of(router) as client:
        for path, body, status in (
            ("/v1/replicas/a", {"url": "http://127.0.0.1:9"}, 422),
            ("/v1/replicas/a", {"url": "http://10.0.0.1:9"}, 201),
            ("/v1/fleets/f", {"control": "http://127.0.0.1:9", **pools}, 422),
            ("/v1/fleets/f", {"control": "https://user:secret@10.0.0.1:9", **pools}, 422),
            ("/v1/fleets/f", {"control": "https://10.0.0.1:9", **pools}, 201),
        ):
            answer = await client.put(path, json=body)
            assert answer.status_code == status, answer.text


async def test_a_saved_replica_outside_is_not_restored(tmp_path: Path) -> None:
    """The setting may have changed since."""
    state_file = str(tmp_path / "state.json")
    async with running_router(state_file=state_file) as router, client_of(router) as client:
        for name, address in (("in", "10.0.0.1"), ("out", "10.1.0.1")):
            assert (await client.put(f"/v1/replicas/{name}", json={"url": f"http://{address}:9"})).status_code == 201
    networks = {"port": 0, "engine_networks": ["10.0.0.0/16"]}
    async with running_router(state_file=state_file, admin=networks) as router:
        assert [replica.id for replica in router.core.replicas] == ["in"]


class NameServer:
    """Stands in for the system's: each name is answered when the test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.answering = threading.Event()
        self.asked = 0
        monkeypatch.setattr(endpoints, "_address_of", self.ask)

    def ask(self, host: str, port: int) -> IPv4Address:
        self.asked += 1
        self.answering.wait(30)
        return IPv4Address("10.0.0.1")


async def test_a_name_server_that_hangs_holds_up_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that takes too long is refused as not resolved; the executor that saves the state file is not in it."""
    names = NameServer(monkeypatch)
    monkeypatch.setattr(endpoints, "RESOLVE_THREADS", 2)
    resolver = EndpointResolver()
    waiting = [asyncio.create_task(resolver.resolve(f"http://h{n}:9", within_s=0.05)) for n in range(5)]
    for task in waiting:
        with pytest.raises(ResolveError, match=r"was not resolved within 0\.05 s"):
            await task
    assert names.asked == 2
    assert await asyncio.get_running_loop().run_in_executor(None, lambda: "saved") == "saved"
    names.answering.set()
    assert await resolver.resolve("http://h:9", within_s=30) == ("10.0.0.1", 9)
    resolver.close()


async def test_names_being_resolved_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """One too many is refused at once; given up is not done, so it counts until its thread is free."""
    names = NameServer(monkeypatch)
    monkeypatch.setattr(endpoints, "MAX_RESOLVING", 2)
    resolver = EndpointResolver()
    for n in range(2):
        with pytest.raises(ResolveError, match="was not resolved"):
            await resolver.resolve(f"http://h{n}:9", within_s=0.01)
    with pytest.raises(ResolveError, match="2 other names are being resolved"):
        await resolver.resolve("http://h:9")
    names.answering.set()
    async with asyncio.timeout(30):
        while resolver._resolving:
            await asyncio.sleep(0.005)
    assert await resolver.resolve("http://h:9", within_s=30) == ("10.0.0.1", 9)
    resolver.close()


async def test_a_name_not_resolved_in_time_is_503(monkeypatch: pytest.MonkeyPatch) -> None:
    """The replica registers again by itself."""
    names = NameServer(monkeypatch)
    monkeypatch.setattr(endpoints, "MAX_RESOLVING", 0)
    async with running_router() as router, client_of(router) as client:
        answer = await client.put("/v1/replicas/a", json={"url": "http://h:9"})
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
    assert names.asked == 0


@pytest.mark.parametrize(
    "url",
    ["", "127.0.0.1:8000", "https://a:1", "http://a", "http://a:0", "http://a:99999", "http://a:1/v1", "http://:1",
     "http://a:b", "http://[::1", "unix:///x", "http://a:1?x=1"],
)  # fmt: skip
def test_a_url_haproxy_cannot_connect_to_is_refused(url: str) -> None:
    """The error shows the value and the expected form."""
    with pytest.raises(RegistrationError, match="http://HOST:PORT"):
        parse_endpoint(url)


async def test_names_are_resolved_when_registered() -> None:
    """HAProxy takes addresses only, and IPv4 is preferred."""
    resolver = EndpointResolver()
    assert await resolver.resolve("http://localhost:8000") == ("127.0.0.1", 8000)
    assert await resolver.resolve("http://[::1]:8000/") == ("::1", 8000)
    with pytest.raises(RegistrationError, match="no address"):
        await resolver.resolve("http://no-such-host.invalid:8000")
