"""Which token may do what: each operation with each role, and tokens that come and go while the router runs."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from certificates import make_certificate
from router_fixture import client_of, running_router

from pointsman.contract.feed import FeedHello
from pointsman.contract.tokens import TokenRole, hash_token
from pointsman.engine.transport import FeedConnection, TransportError
from pointsman.router.app import Router
from pointsman.router.errors import SettingsError
from pointsman.router.fronts import admin_token
from pointsman.router.fronts.api.endpoint import Endpoint
from pointsman.router.fronts.api.table import ENDPOINTS
from pointsman.router.process import watched_files

READ, OPERATE, ENGINE = TokenRole.READ, TokenRole.OPERATE, TokenRole.ENGINE

WHO_MAY: Mapping[str, set[TokenRole]] = {
    "putReplica": {OPERATE, ENGINE},
    "deleteReplica": {OPERATE, ENGINE},
    "drainReplica": {OPERATE, ENGINE},
    "takeEvents": {ENGINE},
    "putFleet": {ENGINE},
    "deleteFleet": {OPERATE, ENGINE},
    "getReplica": {READ, OPERATE, ENGINE},
    "explain": {READ, OPERATE},
    "validatePolicy": {READ, OPERATE},
    "dryRunPolicy": {READ, OPERATE},
}
"""Operations whose roles are not the usual ones."""


def may(endpoint: Endpoint) -> set[TokenRole]:
    """Roles that are enough, as docs/admin-api.md says."""
    return WHO_MAY.get(endpoint.operation_id, {READ, OPERATE} if endpoint.method == "GET" else {OPERATE})


def write_tokens(path: Path, tokens: Mapping[str, Sequence[str]], **more: Any) -> None:
    """A file in which each token is called by its own text."""
    records = [
        {"name": str(name), "roles": [str(role) for role in roles], "sha256": hash_token(name)} | more
        for name, roles in tokens.items()
    ]
    fresh = path.with_name("fresh")
    fresh.write_text(yaml.safe_dump({"tokens": records}))
    fresh.replace(path)


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


@pytest.fixture(autouse=True)
def _without_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin_token, "DELAY_S", 0.0)
    monkeypatch.setattr(watched_files, "LOOK_EVERY_S", 0.01)


@asynccontextmanager
async def edge_with_tokens(path: Path, **admin: Any) -> AsyncIterator[tuple[Router, httpx.AsyncClient]]:
    settings = {"port": 0, "tokens_file": str(path), **admin}
    async with running_router(admin=settings) as router, client_of(router) as client:
        yield router, client


async def test_each_operation_asks_for_its_role(tmp_path: Path) -> None:
    """403 names the role that is needed and those of the token; with the role, the request gets to its handler."""
    path = tmp_path / "tokens.yaml"
    write_tokens(path, {role: [role] for role in TokenRole} | {"nobody": [READ]})
    async with edge_with_tokens(path) as (router, client):
        router.streams.close()
        for endpoint in ENDPOINTS:
            url = endpoint.path.format(id="a", name="a", key="a", revision=1)
            for role in TokenRole:
                answer = await client.request(endpoint.method, url, headers=bearer(role))
                allowed = endpoint.public or role in may(endpoint)
                said = f"{endpoint.operation_id} with {role}: {answer.status_code} {answer.text[:200]}"
                assert (answer.status_code != 403) == allowed, said
                if not allowed:
                    problem = answer.json()
                    assert problem["type"] == "/docs/problems#missing-role", said
                    assert all(str(one) in problem["detail"] for one in endpoint.roles) and f"'{role}'" in said
            if not endpoint.public:
                for wrong in ({}, bearer("wrong"), {"authorization": f"Basic {OPERATE}"}):
                    answer = await client.request(endpoint.method, url, headers=wrong)
                    assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer"
        refused = (await client.get("/metrics")).text
        assert 'pointsman_admin_refused_total{check="role"}' in refused
        assert 'pointsman_admin_refused_total{check="role"} 0.0' not in refused


async def test_the_token_of_the_settings_has_every_role(tmp_path: Path) -> None:
    """Beside the file, and alone."""
    path = tmp_path / "tokens.yaml"
    write_tokens(path, {"ann": [READ]})
    async with edge_with_tokens(path, token="all") as (_, client):
        assert (await client.get("/v1/whoami", headers=bearer("all"))).json() == {
            "name": "admin",
            "roles": ["engine", "operate", "read"],
        }
        assert (await client.get("/v1/whoami", headers=bearer("ann"))).json() == {"name": "ann", "roles": ["read"]}
        assert (await client.put("/v1/policy", json={"policy": "random"}, headers=bearer("all"))).status_code == 200


async def test_tokens_come_and_go_while_the_router_runs(tmp_path: Path) -> None:
    """A rotation: the new one is listed, then the old one is taken off; neither costs a restart."""
    path = tmp_path / "tokens.yaml"
    write_tokens(path, {"old": [OPERATE]})
    async with edge_with_tokens(path) as (_, client):

        async def statuses() -> list[int]:
            return [(await client.get("/v1/policy", headers=bearer(token))).status_code for token in ("old", "new")]

        assert await statuses() == [200, 401]
        write_tokens(path, {"old": [OPERATE], "new": [READ]})
        await until(lambda: statuses(), [200, 200])
        write_tokens(path, {"new": [READ]})
        await until(lambda: statuses(), [401, 200])


async def test_a_broken_file_keeps_the_tokens_and_shows(tmp_path: Path) -> None:
    """Counted, and in `/readyz` until it is mended; a router that starts with it refuses."""
    path = tmp_path / "tokens.yaml"
    write_tokens(path, {"ann": [READ]})
    async with edge_with_tokens(path) as (_, client):
        path.write_text("tokens: [{name: ann, rolls: [read]}]")

        async def degraded() -> bool:
            return "degraded: admin tokens: " in (await client.get("/readyz")).text

        await until(degraded, True)
        assert (await client.get("/v1/policy", headers=bearer("ann"))).status_code == 200
        assert 'pointsman_admin_file_errors_total{file="admin tokens"} 1.0' in (await client.get("/metrics")).text
        write_tokens(path, {"bob": [READ]})
        await until(degraded, False)
        assert (await client.get("/v1/policy", headers=bearer("ann"))).status_code == 401
    path.write_text("")
    with pytest.raises(SettingsError, match="tokens: missing"):
        async with edge_with_tokens(path):
            pass


async def test_an_expired_token_is_a_wrong_one(tmp_path: Path) -> None:
    """From its time on, whether the file was read again or not."""
    path = tmp_path / "tokens.yaml"
    now = datetime(2027, 1, 1, tzinfo=UTC).timestamp()
    write_tokens(path, {"ann": [READ]}, expires="2027-01-01T00:00:10Z")
    async with edge_with_tokens(path) as (router, client):
        router.access.tokens._wall = lambda: now + 9.9
        assert (await client.get("/v1/policy", headers=bearer("ann"))).status_code == 200
        router.access.tokens._wall = lambda: now + 10.0
        assert (await client.get("/v1/policy", headers=bearer("ann"))).status_code == 401


async def test_the_name_of_the_token_is_the_author(tmp_path: Path) -> None:
    """Whatever a header says."""
    path = tmp_path / "tokens.yaml"
    write_tokens(path, {"ann": [OPERATE]})
    async with edge_with_tokens(path) as (_, client):
        headers = bearer("ann") | {"x-pointsman-author": "bob"}
        assert (await client.put("/v1/policy", json={"policy": "random"}, headers=headers)).status_code == 200
        (event,) = (await client.get("/v1/events?kind=audit", headers=headers)).json()["events"]
        assert event["author"] == "ann"


async def test_the_feed_is_for_engines(tmp_path: Path) -> None:
    """A token that may do everything else is refused there with 403."""
    path = tmp_path / "tokens.yaml"
    write_tokens(path, {"chat": [ENGINE], "ann": [READ, OPERATE]})
    async with edge_with_tokens(path) as (router, _):
        address = router.addresses["feed"]
        for token, refused in (("chat", ""), ("ann", "403"), ("x", "401")):
            feed = FeedConnection(address.host, address.port, lambda: None)
            if refused:
                with pytest.raises(TransportError, match=refused):
                    await feed.open(FeedHello("r", token))
            else:
                await feed.open(FeedHello("r", token))
            feed.close()


async def test_open_connections_of_a_token_that_goes_are_closed(tmp_path: Path) -> None:
    """The feed of its engine at once, other feeds not; streams end, and whoever may follow connects again."""
    path = tmp_path / "tokens.yaml"
    write_tokens(path, {"one": [ENGINE], "two": [ENGINE], "ann": [READ]})
    async with edge_with_tokens(path) as (router, client):
        address = router.addresses["feed"]
        gone = {token: asyncio.Event() for token in ("one", "two")}
        feeds = [FeedConnection(address.host, address.port, ended.set) for ended in gone.values()]
        for feed, token in zip(feeds, gone, strict=True):
            await feed.open(FeedHello("r", token))
        async with client.stream("GET", "/v1/events?follow=true", headers=bearer("ann")) as answer:
            write_tokens(path, {"two": [ENGINE], "ann": [READ]})
            assert [line async for line in answer.aiter_lines() if line] == []
        await gone["one"].wait()
        assert not gone["two"].is_set() and not feeds[1].closed
        assert router.access.tokens.wrong == 0
        feeds[1].close()


async def test_two_people_who_change_the_same_are_told() -> None:
    """The second one's If-Match is stale: 412, with the version there is, and nothing of it is live."""
    async with running_router() as router, client_of(router) as client:
        etag = (await client.get("/v1/policy")).headers["etag"]
        answers = await asyncio.gather(
            *(
                client.put("/v1/policy", json={"policy": policy}, headers={"if-match": etag, "x-pointsman-author": who})
                for who, policy in (("ann", "random"), ("bob", "round_robin"))
            )
        )
        assert sorted(answer.status_code for answer in answers) == [200, 412]
        live = await client.get("/v1/policy")
        (refused,) = (answer.json() for answer in answers if answer.status_code == 412)
        assert refused["type"] == "/docs/problems#stale-version" and live.headers["etag"] in refused["detail"]
        events = (await client.get("/v1/events?kind=audit")).json()["events"]
        assert {(event["author"], event["status"]) for event in events} in (
            {("ann", 200), ("bob", 412)},
            {("ann", 412), ("bob", 200)},
        )


async def test_the_admin_address_and_the_feed_speak_tls(tmp_path: Path) -> None:
    """Clients that trust the authority get through; a renewed certificate takes effect without a restart."""
    made = make_certificate(tmp_path / "one")
    admin = {"port": 0, "tls_cert": str(made.chain), "tls_key": str(made.key), "token": "t"}
    async with running_router(admin=admin) as router:
        assert router.settings.admin.scheme == "https"
        trusted = ssl.create_default_context(cafile=str(made.chain))
        url = f"https://{router.addresses['admin']}"

        async def asked(context: ssl.SSLContext) -> int | str:
            async with httpx.AsyncClient(base_url=url, verify=context, trust_env=False) as client:
                try:
                    return (await client.get("/v1/policy", headers=bearer("t"))).status_code
                except httpx.ConnectError as error:
                    return type(error).__name__

        assert await asked(trusted) == 200
        feed = FeedConnection("127.0.0.1", router.addresses["feed"].port, lambda: None, tls=trusted)
        await feed.open(FeedHello("r", "t"))
        feed.close()
        plain = FeedConnection("127.0.0.1", router.addresses["feed"].port, lambda: None)
        with pytest.raises(TransportError):
            await plain.open(FeedHello("r", "t"))
        renewed = make_certificate(tmp_path / "two")
        made.key.write_bytes(renewed.key.read_bytes())
        made.chain.write_bytes(renewed.chain.read_bytes())
        newly = ssl.create_default_context(cafile=str(renewed.chain))
        await until(lambda: asked(newly), 200)
        assert await asked(trusted) == "ConnectError"


async def until(asked: Any, expected: Any) -> None:
    """Ask until the answer is the expected one."""
    async with asyncio.timeout(20):
        while (found := await asked()) != expected:
            assert found is not None
            await asyncio.sleep(0.02)
