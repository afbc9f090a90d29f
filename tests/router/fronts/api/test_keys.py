"""API keys in the admin API: made, listed, changed, rotated, revoked."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from router_fixture import client_of, running_router

from pointsman.haproxy.api_keys import hash_of


@asynccontextmanager
async def admin(**settings: Any) -> AsyncIterator[httpx.AsyncClient]:
    async with running_router(**settings) as router, client_of(router) as client:
        yield client


async def made(client: httpx.AsyncClient, **given: Any) -> dict[str, Any]:
    answer = await client.post("/v1/keys", json={"tenant": "acme", **given})
    assert answer.status_code == 201, answer.text
    view: dict[str, Any] = answer.json()
    return view


async def test_a_secret_is_shown_once() -> None:
    """In the answer that makes it, which nobody may store; no other answer has it or its hash."""
    async with running_router() as router, client_of(router) as client:
        answer = await client.post("/v1/keys", json={"tenant": "acme", "note": "ci"})
        view = answer.json()
        assert answer.headers["cache-control"] == "no-store"
        assert (view["tenant"], view["state"], view["note"], view["required"]) == ("acme", "in-force", "ci", False)
        assert view["key"].startswith(f"pmk-{view['id']}-")
        key = router.core.keys.find(hash_of(view["key"]))
        assert key is not None and key.id == view["id"]
        for path in ("/v1/keys", f"/v1/keys/{view['id']}", "/v1/events", "/v1/state/digests"):
            text = (await client.get(path)).text
            assert view["key"] not in text and hash_of(view["key"]) not in text


async def test_keys_are_listed_by_tenant_state_and_page() -> None:
    """By id."""
    async with admin() as client:
        ids = sorted([(await made(client))["id"] for _ in range(3)])
        other = (await made(client, tenant="other"))["id"]
        await client.delete(f"/v1/keys/{ids[0]}")
        listed = (await client.get("/v1/keys", params={"tenant": "acme"})).json()["keys"]
        assert [(key["id"], key["state"]) for key in listed] == [
            (ids[0], "revoked"),
            (ids[1], "in-force"),
            (ids[2], "in-force"),
        ]
        live = (await client.get("/v1/keys", params={"state": "in-force", "limit": 2})).json()
        assert len(live["keys"]) == 2 and live["next"]
        rest = (await client.get("/v1/keys", params={"state": "in-force", "cursor": live["next"]})).json()
        assert {key["id"] for key in live["keys"] + rest["keys"]} == {*ids[1:], other}


async def test_a_key_is_changed_under_its_version() -> None:
    """What it may do; id, tenant and secret stay."""
    async with running_router() as router, client_of(router) as client:
        view = await made(client)
        etag = (await client.get(f"/v1/keys/{view['id']}")).headers["etag"]
        change = {"models": ["m"], "limits": {"tokens_per_minute": 5}, "expires": "2031-01-01T00:00:00+01:00"}
        path = f"/v1/keys/{view['id']}"
        changed = await client.put(path, json=change, headers={"if-match": etag})
        assert changed.json()["limits"]["tokens_per_minute"] == 5
        assert changed.json()["expires"] == "2030-12-31T23:00:00.000Z"
        assert (await client.put(path, json=change, headers={"if-match": etag})).status_code == 412
        key = router.core.keys.get(view["id"])
        assert key is not None
        assert (key.hash, key.models) == (hash_of(view["key"]), ("m",))


async def test_a_rotated_key_keeps_its_id_and_the_old_secret_for_its_grace() -> None:
    """Without grace the old secret ends at once."""
    async with running_router() as router, client_of(router) as client:
        view = await made(client, models=["m"])
        rotated = (await client.post(f"/v1/keys/{view['id']}/rotate", json={"grace_s": 60})).json()
        assert (rotated["id"], rotated["models"]) == (view["id"], ["m"])
        assert rotated["key"] != view["key"] and rotated["old_secret_until"]
        keys = router.core.keys
        assert keys.find(hash_of(view["key"])) is keys.find(hash_of(rotated["key"])) is not None
        again = (await client.post(f"/v1/keys/{view['id']}/rotate")).json()
        assert again["old_secret_until"] is None
        assert keys.find(hash_of(view["key"])) is keys.find(hash_of(rotated["key"])) is None
        assert keys.find(hash_of(again["key"])) is not None


async def test_a_revoked_key_stays_known_and_takes_no_change() -> None:
    """Revoking it again changes nothing."""
    async with admin() as client:
        view = await made(client)
        path = f"/v1/keys/{view['id']}"
        assert [(await client.delete(path)).status_code for _ in range(2)] == [204, 204]
        assert (await client.get(path)).json()["revoked"]
        assert (await client.put(path, json={})).status_code == 409
        assert (await client.post(f"{path}/rotate")).status_code == 409
        assert (await client.delete("/v1/keys/nosuchkey234")).status_code == 404


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({}, "tenant"),
        ({"tenant": "a b"}, "tenant"),
        ({"tenant": "a/b"}, "tenant"),
        ({"tenant": "a", "expires": "2030-01-01T00:00:00"}, "expires"),
        ({"tenant": "a", "limits": {"tokens_per_minute": -1}}, "tokens_per_minute"),
        ({"tenant": "a", "limits": {"tokens_per_hour": 1}}, "tokens_per_hour"),
        ({"tenant": "a", "key": "my own"}, "key"),
    ],
)
async def test_what_is_no_key_is_refused_by_name(wrong: dict[str, Any], named: str) -> None:
    """Nothing is made."""
    async with admin() as client:
        answer = await client.post("/v1/keys", json=wrong)
        assert answer.status_code == 422 and named in answer.text
        assert (await client.get("/v1/keys")).json()["keys"] == []


async def test_keys_survive_the_router(tmp_path: Path) -> None:
    """From the moment their call is answered; who made them is recorded."""
    kept = {"documents_file": str(tmp_path / "documents.db")}
    async with running_router(**kept) as router, client_of(router) as client:
        view = await made(client)
        events = (await client.get("/v1/events", params={"kind": "audit"})).json()["events"]
        assert [event["text"] for event in events] == [f"key {view['id']} of tenant acme is made"]
    async with running_router(**kept) as router:
        assert router.core.keys.find(hash_of(view["key"])) is not None
    assert view["key"].encode() not in (tmp_path / "documents.db").read_bytes()
