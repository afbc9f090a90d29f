"""Installed policies: their schemas, a document that is checked, and packages that come while the router runs."""

from __future__ import annotations

from pathlib import Path

import pytest
from installed_package import InstalledPackage
from jsonschema import Draft202012Validator
from router_fixture import client_of, register, running_router

from pointsman.policies import registry


async def test_each_policy_has_its_schema() -> None:
    """It accepts the live document; a name that is not installed is answered with the nearest."""
    async with (
        running_router(policy={"policy": "session_affinity", "ttl_s": 60}) as router,
        client_of(router) as client,
    ):
        names = [policy["name"] for policy in (await client.get("/v1/policies")).json()["policies"]]
        for name in names:
            detail = (await client.get(f"/v1/policies/{name}")).json()
            assert detail["name"] == name and detail["summary"].endswith(".")
            Draft202012Validator.check_schema(detail["schema"])
        detail = (await client.get("/v1/policies/session_affinity")).json()
        Draft202012Validator(detail["schema"]).validate((await client.get("/v1/policy")).json())
        missing = await client.get("/v1/policies/kv_cots")
        assert missing.status_code == 404 and "did you mean 'kv_cost'?" in missing.json()["detail"]


async def test_a_document_is_checked_and_nothing_changes() -> None:
    """The answer says what it would be, and whether it is live already."""
    async with running_router(policy={"policy": "least_load"}) as router, client_of(router) as client:
        await register(router, "a", model="sim")
        live = await client.post("/v1/policy/validate", json={"policy": "least_load"})
        assert live.json() == {
            "document": {"policy": "least_load", "by": "requests"},
            "etag": (await client.get("/v1/policy")).headers["etag"],
            "live": True,
            "warnings": [],
        }
        other = {"policy": "random", "models": {"smi": {"policy": "least_load"}}}
        answer = (await client.post("/v1/policy/validate", json=other)).json()
        assert not answer["live"] and "no replica serves smi" in answer["warnings"][0]
        wrong = await client.post("/v1/policy/validate", json={"policy": "least_load", "models": {"m": {"by": "x"}}})
        assert (wrong.status_code, wrong.json()["key"]) == (422, "models.m.policy")
        assert (await client.get("/v1/policy")).json()["policy"] == "least_load"
        assert (await client.get("/v1/events?kind=audit")).json()["events"][-1]["operation"] == "putReplica"


async def test_a_policy_installed_while_the_router_runs_may_be_put_live(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unknown before, known after; an upgrade is told to need a restart, and the policy decides on."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(site)
    installed = registry._Installed()
    monkeypatch.setattr(registry, "_installed", lambda: installed)
    package = InstalledPackage(site)
    async with running_router(policy={"policy": "least_load"}) as router, client_of(router) as client:
        await register(router, "a", "b")
        package.install()
        assert (await client.put("/v1/policy", json={"policy": "last"})).status_code == 422
        answer = (await client.post("/v1/policies/reload")).json()
        line = {"name": "last", "package": "fleet-extras", "version": "1.0", "state": "loaded", "detail": ""}
        assert answer == {"policies": [line]}
        assert (await client.put("/v1/policy", json={"policy": "last"})).status_code == 200
        assert (await client.post("/v1/explain", json={})).json()["decision"]["first"] == "b"
        package.install("2.0")
        (line,) = (await client.post("/v1/policies/reload")).json()["policies"]
        assert (line["state"], line["version"], line["detail"]) == ("needs_restart", "2.0", "version 1.0 was loaded")
        assert (await client.get("/v1/policy")).json() == {"policy": "last"}
        texts = [event["text"] for event in (await client.get("/v1/events?kind=audit")).json()["events"]]
        assert "policies were looked for: last is new" in texts
        assert texts[-1] == "policies were looked for: nothing is new"
