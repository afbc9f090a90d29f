"""A driver and its routers: the lease of the pools, and whom they route to."""

from __future__ import annotations

import asyncio

import pytest
from router_fixture import client_of, register, running_router

from pointsman.contract.pools import FleetLease, PoolStatus
from pointsman.contract.registration import Role
from pointsman.engine.vllm.fleet.admin_client import AdminClient
from pointsman.router.app import Router
from pointsman.router.fleet.replica import Health


def lease(ready: int = 1) -> FleetLease:
    status = PoolStatus(
        name="chat", model="m", role=Role.BOTH, replicas=2, replicas_max=9, ready=ready, state="scaling", revision="r"
    )
    return FleetLease(control="http://127.0.0.1:1", ttl_s=10.0, pools=[status])


async def pools_of(router: Router) -> list[tuple[str, int]]:
    async with client_of(router) as client:
        return [(pool["name"], pool["ready"]) for pool in (await client.get("/v1/pools")).json()["pools"]]


async def test_the_lease_is_kept_renewed_at_once_and_given_up() -> None:
    """What changed is told before the next heartbeat."""
    async with running_router() as router:
        admin = AdminClient("f", [f"http://{router.addresses['admin']}/"], "", heartbeat_s=3600.0)
        ready = [1]
        keeping = asyncio.create_task(admin.keep_lease(lambda: lease(ready[0])))
        async with asyncio.timeout(5):
            while await pools_of(router) != [("chat", 1)]:
                await asyncio.sleep(0.01)
            ready[0] = 2
            admin.renew_now()
            while await pools_of(router) != [("chat", 2)]:
                await asyncio.sleep(0.01)
        keeping.cancel()
        await asyncio.wait({keeping})
        await admin.withdraw()
        assert await pools_of(router) == []


async def test_a_replica_is_routed_to_when_every_router_that_answers_has_it_up() -> None:
    """A router that is away is not waited for."""
    async with running_router() as router:
        admin = AdminClient("f", [f"http://{router.addresses['admin']}", "http://127.0.0.1:9"], "", heartbeat_s=1.0)
        await register(router, "a")
        router.core.replicas.set_health("a", Health.DOWN, 0.0)
        waiting = asyncio.create_task(admin.wait_routed(["a"]))
        await asyncio.sleep(0)
        assert not waiting.done()
        router.core.replicas.set_health("a", Health.UP, 0.0)
        async with asyncio.timeout(5):
            await waiting
        await admin.withdraw()


async def test_a_replica_nobody_routes_to_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """A roll goes on: health checks that never pass are not the driver's to judge."""
    monkeypatch.setattr("pointsman.engine.vllm.fleet.admin_client.ROUTED_S", 0.05)
    async with running_router() as router:
        admin = AdminClient("f", [f"http://{router.addresses['admin']}"], "", heartbeat_s=1.0)
        await admin.wait_routed(["nobody"])
        await admin.withdraw()


async def test_dead_replicas_are_deregistered_at_once() -> None:
    """Every router is told; one that is away, or knows nothing of them, does not matter."""
    async with running_router() as router:
        admin = AdminClient("f", [f"http://{router.addresses['admin']}", "http://127.0.0.1:9"], "", heartbeat_s=1.0)
        await register(router, "a", "b")
        await admin.deregister(["a", "nobody"])
        assert [replica.id for replica in router.core.replicas] == ["b"]
        await admin.withdraw()
