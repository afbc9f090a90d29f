"""The settings in effect, in the admin API."""

from pathlib import Path
from typing import Any

import httpx
from router_fixture import PICKED, client_of

from pointsman.router.app import Router
from pointsman.router.settings import Settings, read_settings


async def config_of(client: httpx.AsyncClient) -> dict[str, tuple[Any, str]]:
    """Value and source by key."""
    values = (await client.get("/v1/config")).json()["values"]
    return {one["key"]: (one["value"], one["source"]) for one in values}


async def test_every_setting_is_shown_with_the_place_it_comes_from(tmp_path: Path) -> None:
    """File, variable and flag by their names, and the default for the rest; a secret is hidden."""
    path = tmp_path / "router.yaml"
    path.write_text("edge: {interval_s: 2}\nlimits: {max_sessions: 5}\nadmin: {token: s3cret}\n")
    loaded = read_settings(
        path,
        environment={"POINTSMAN_LIMITS__MAX_SESSIONS": "7", "POINTSMAN_POLICY": "{policy: random}"},
        overrides={"command line": PICKED},
    )
    async with (
        Router(*loaded).running() as router,
        client_of(router, headers={"authorization": "Bearer s3cret"}) as client,
    ):
        config = await config_of(client)
    assert config["edge.interval_s"] == (2.0, str(path))
    assert config["edge.backend"] == ("fleet", "default")
    assert config["limits.max_sessions"] == (7, "environment variable POINTSMAN_LIMITS__MAX_SESSIONS")
    assert config["admin.port"] == (0, "command line")
    assert config["admin.token"] == ("***", str(path))
    assert config["policy"] == ({"policy": "random"}, "environment variable POINTSMAN_POLICY")
    assert config["seed"] == (None, "default")
    sections = {key.partition(".")[0] for key in config}
    assert sections == set(Settings.__struct_fields__)


async def test_a_policy_that_was_put_live_is_the_one_shown() -> None:
    """Complete, with the admin API as its source."""
    loaded = read_settings(environment={}, overrides={"command line": PICKED})
    async with Router(*loaded).running() as router, client_of(router) as client:
        assert (await config_of(client))["policy"] == ({"policy": "kv_cost"}, "default")
        await client.put("/v1/policy", json={"policy": "least_load"})
        assert (await config_of(client))["policy"] == ({"policy": "least_load", "by": "requests"}, "admin API")
