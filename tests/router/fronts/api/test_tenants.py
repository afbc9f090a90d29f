"""Tenants in the admin API: their shares, limits and pools."""

from __future__ import annotations

from typing import Any

import pytest
from router_fixture import client_of, running_router


async def test_a_tenant_is_set_changed_and_has_the_defaults_again() -> None:
    """Under its version."""
    async with running_router() as router, client_of(router) as client:
        assert (await client.get("/v1/tenants/acme")).status_code == 404
        body = {"weight": 3, "limits": {"tokens_per_minute": 100}, "priority": "high", "max_priority": "critical"}
        put = await client.put("/v1/tenants/acme", json=body)
        assert (put.status_code, put.json()["name"], put.json()["weight"]) == (200, "acme", 3)
        assert router.core.tenants.of("acme").limits.tokens_per_minute == 100
        stale = await client.put("/v1/tenants/acme", json={}, headers={"if-match": '"x"'})
        assert stale.status_code == 412
        changed = await client.put("/v1/tenants/acme", json={"weight": 1}, headers={"if-match": put.headers["etag"]})
        assert changed.json()["priority"] == "normal"
        assert (await client.delete("/v1/tenants/acme")).status_code == 204
        assert (await client.delete("/v1/tenants/acme")).status_code == 404
        assert router.core.tenants.get("acme") is None


async def test_tenants_with_keys_or_settings_are_listed() -> None:
    """With the number of keys in force."""
    async with running_router() as router, client_of(router) as client:
        for tenant in ("b", "b", "c"):
            assert (await client.post("/v1/keys", json={"tenant": tenant})).status_code == 201
        await client.put("/v1/tenants/a", json={})
        listed = (await client.get("/v1/tenants")).json()["tenants"]
        assert [(tenant["name"], tenant["keys"]) for tenant in listed] == [("a", 0), ("b", 2), ("c", 1)]
        got = await client.get("/v1/tenants/c")
        same = await client.put("/v1/tenants/c", json={}, headers={"if-match": got.headers["etag"]})
        assert same.status_code == 200, "its defaults have a version too"


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"weight": 0}, "weight"),
        ({"priority": "first"}, "priority"),
        ({"limits": {"cached_weight": 2}}, "cached_weight"),
        ({"weights": 1}, "weights"),
        ({"model_limits": {"m": {"tokens_per_minute": "many"}}}, "tokens_per_minute"),
    ],
)
async def test_what_is_no_share_is_refused_by_name(wrong: dict[str, Any], named: str) -> None:
    """The tenant stays as it was."""
    async with running_router() as router, client_of(router) as client:
        answer = await client.put("/v1/tenants/acme", json=wrong)
        assert answer.status_code == 422 and named in answer.text
        assert (await client.put("/v1/tenants/a%20b", json={})).status_code == 422
        assert len(router.core.tenants) == 0
