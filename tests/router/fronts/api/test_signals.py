"""Prefix index and load in the admin API."""

from router_fixture import client_of, register, running_router

from pointsman.contract.events import EngineEvents
from pointsman.policies.request import RequestFeatures


async def test_the_index_says_who_holds_how_much() -> None:
    """Keys by replica, those that are only expected, and the room there is."""
    async with running_router() as router, client_of(router) as client:
        await register(router, "a", "b")
        core, now_s = router.core, router.clock()
        report = EngineEvents(epoch="e", seq=1, snapshot=True, stored=[1, 2, 3], block_tokens=16)
        core.engine_events("a", report, now_s)
        core.engine_events("b", EngineEvents(epoch="e", seq=1, snapshot=True, stored=[3]), now_s)
        core.engine_events("b", EngineEvents(epoch="e", seq=3), now_s)  # the message before was lost
        core.decide(RequestFeatures(request_id="q", body_bytes=9000, prefix_keys=(1, 2, 3, 4)), now_s)
        view = (await client.get("/v1/index")).json()
        assert (view["keys"], view["limit"], view["expected"], view["dropped"]) == (3, 1_000_000, 1, 0)
        assert view["bytes"] > 0
        assert view["replicas"] == [
            {"replica": "a", "keys": 3, "reports": True, "in_step": True, "block_tokens": 16},
            {"replica": "b", "keys": 1, "reports": True, "in_step": False, "block_tokens": 0},
        ]
        first = (await client.get("/v1/index?limit=1")).json()
        assert [one["replica"] for one in first["replicas"]] == ["a"] and first["next"] == "a"


async def test_the_load_is_shown_as_policies_read_it() -> None:
    """What this edge placed, what others did, what waits, and the room there is."""
    async with running_router() as router, client_of(router) as client:
        await register(router, "a")
        core, now_s = router.core, router.clock()
        slot = core.replicas.slot_of("a")
        core.kv.columns.set_capacity(slot, 10_000)
        core.decide(
            RequestFeatures(request_id="q", session="s", body_bytes=4000, max_tokens=100, prefix_keys=(1, 2)), now_s
        )
        core.load.add_elsewhere(slot, 2, 500)
        view = (await client.get("/v1/load")).json()
        assert (view["in_flight"], view["held"]) == (3, 0)
        (load,) = view["replicas"]
        assert load["replica"] == "a"
        parts = [load[part] for part in ("reserved", "foreign", "elsewhere", "outside")]
        assert parts == [1, 0, 2, 0] and load["in_flight"] == 3
        assert load["in_flight_tokens"] == 1000 + 100 + 500
        assert load["waiting_tokens"] == load["footprint_tokens"] == 1000
        assert (load["capacity_tokens"], load["fill"]) == (10_000, 0.1)
        assert load["prefill_ms"] == load["base_ms"] + 1000 * load["per_token_ms"]


async def test_an_unknown_capacity_is_null() -> None:
    """JSON has no infinity."""
    async with running_router() as router, client_of(router) as client:
        await register(router, "a")
        (load,) = (await client.get("/v1/load")).json()["replicas"]
        assert load["capacity_tokens"] is None and load["fill"] is None
