"""The state of an edge in one document: whether it is well, and what is not."""

from typing import Any

import httpx
import msgspec
from router_fixture import client_of, register, running_router

from pointsman.policies.decision import Decision, Reason
from pointsman.policies.request import BATCH, Priority, RequestFeatures
from pointsman.router.edges.records import EdgeInfo
from pointsman.router.fleet.replica import Health
from pointsman.router.fronts.api.status import OUT_MAX, SHARES_MAX
from pointsman.router.process.version import product_version


async def status_of(client: httpx.AsyncClient) -> dict[str, Any]:
    answer = await client.get("/v1/status")
    assert answer.status_code == 200, answer.text
    status: dict[str, Any] = answer.json()
    return status


async def test_an_edge_that_is_well_says_so() -> None:
    """Who it is, which policy decides, what it has done."""
    async with running_router() as router, client_of(router) as client:
        await register(router, "a", "b")
        for number in range(3):
            router.decider.lookup({"id": f"q{number}"})
        line = {
            "ev": "end",
            "id": "x",
            "srv": "a",
            "first": "",
            "st": 200,
            "routed": "1",
            "reason": "fail-open",
            "tr": 1,
        }
        router.core.end_of_request.apply(msgspec.json.encode(line), router.clock())
        status = await status_of(client)
        assert (status["state"], status["not_ready"], status["degraded"]) == ("ready", [], [])
        assert status["version"] == product_version() and status["uptime_s"] >= 0
        assert status["edge"] == "" and status["name"] and status["edges"] == [] and status["haproxy"] is None
        assert status["policy"]["name"] == "kv_cost"
        assert status["policy"]["etag"] == (await client.get("/v1/policy")).headers["etag"]
        assert status["replicas"] == {"total": 2, "by_state": {"up": 2}, "out": []}
        assert (status["lookups"], status["in_flight"], status["fail_open"], status["lookup_errors"]) == (3, 3, 1, 0)


async def test_replicas_that_are_out_are_listed_with_the_reason() -> None:
    """An edge that serves is ready all the same; without any replica it is not."""
    async with running_router() as router, client_of(router) as client:
        await register(router, "a", "b", "c")
        router.core.replicas.set_health("a", Health.DOWN, router.clock())
        await client.post("/v1/replicas/b/drain")
        status = await status_of(client)
        assert status["state"] == "ready"
        assert status["replicas"]["by_state"] == {"down": 1, "draining": 1, "up": 1}
        assert [(one["replica"], one["state"]) for one in status["replicas"]["out"]] == [
            ("a", "down"),
            ("b", "draining"),
        ]
        assert all(one["why"] and one["since"].endswith("Z") for one in status["replicas"]["out"])
        await client.post("/v1/replicas/c/drain")
        status = await status_of(client)
        assert status["state"] == "not ready"
        assert status["not_ready"] == ["replicas: no replica can serve: 1 down, 2 draining"]


async def test_a_model_that_nobody_serves_degrades_the_edge() -> None:
    """In /readyz, too, which stays 200: other models are served."""
    async with running_router() as router, client_of(router) as client:
        await register(router, "a", model="qwen")
        await client.put("/v1/replicas/b", json={"url": "http://127.0.0.1:9", "model": "llama"})
        await client.post("/v1/replicas/b/drain")
        status = await status_of(client)
        said = "models: no replica can serve llama: 1 draining"
        assert (status["state"], status["degraded"]) == ("degraded", [said])
        ready = await client.get("/readyz")
        assert (ready.status_code, ready.text) == (200, f"ok\ndegraded: {said}\n")


async def test_a_large_fleet_that_is_down_is_counted_whole_and_listed_in_part() -> None:
    """A document that people read does not grow with the fleet."""
    async with running_router() as router, client_of(router) as client:
        await register(router, *(f"r{number:03d}" for number in range(OUT_MAX + 20)))
        for replica in router.core.replicas:
            replica.draining = True
        replicas = (await status_of(client))["replicas"]
        assert replicas["by_state"] == {"draining": OUT_MAX + 20} and len(replicas["out"]) == OUT_MAX


async def test_other_edges_and_haproxy_are_shown() -> None:
    """An HAProxy that is away, a store that is away, and an edge that is silent."""
    settings: dict[str, Any] = {
        "edge": {"admin_socket": "/nowhere/admin.sock"},
        "shared": {"url": "redis://127.0.0.1:1", "edge": "north"},
    }
    async with running_router(**settings) as router, client_of(router) as client:
        assert router.sharing is not None
        router.sharing.protocol.peers.meet([EdgeInfo(edge="e2", name="south", admin_url="http://s:1")], router.clock())
        status = await status_of(client)
        assert status["edge"] == router.core.edge != "" and status["name"] == "north"
        assert status["edges"] == [{"name": "south", "admin_url": "http://s:1", "state": "silent"}]
        assert status["haproxy"]["attached"] is False
        assert status["state"] == "not ready" and any(why.startswith("haproxy: ") for why in status["not_ready"])
        assert any(why.startswith("shared state: ") for why in status["degraded"])


async def test_the_queue_is_told_by_class_and_tenant_within_a_bound() -> None:
    """The most first; nothing while nobody waits."""
    async with running_router() as router, client_of(router) as client:
        assert (await status_of(client))["queue"] is None
        holds, now_s = router.core.holds, router.clock()
        refusal = Decision(Reason.ADMISSION, status=429)
        tenants = ["most", "most", *(f"t{number}" for number in range(SHARES_MAX + 3))]
        for number, tenant in enumerate(tenants):
            features = RequestFeatures(
                request_id=f"q{number}",
                tenant=tenant,
                priority=Priority.HIGH if tenant == "t0" else BATCH,
                body_bytes=10,
            )
            holds.join(features, now_s - 5.0, 60.0, refusal)
        status = await status_of(client)
        queue = status["queue"]
        assert status["held"] == len(tenants) and queue["body_bytes"] == 10 * len(tenants)
        assert list(queue["by_priority"].items()) == [("high", 1), ("batch", len(tenants) - 1)]
        assert queue["shares"][0] == {"priority": "batch", "tenant": "most", "requests": 2}
        assert (len(queue["shares"]), queue["others"]) == (SHARES_MAX, 4)
        assert queue["longest_s"] >= 5.0
