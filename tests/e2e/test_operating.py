"""What operators see and do, on a whole edge: why a replica is out, and how it comes back."""

from __future__ import annotations

from typing import Any

import pytest
from edge import RunningEdge, running_up, until
from sim_replica import replica

pytestmark = [pytest.mark.e2e, pytest.mark.system]


async def replica_view(edge: RunningEdge, name: str) -> dict[str, Any]:
    view: dict[str, Any] = (await edge.admin.get(f"/v1/replicas/{name}")).json()
    return view


async def reaches(edge: RunningEdge, name: str, state: str) -> None:
    """Wait until a replica is in a state."""

    async def reached() -> bool:
        return (await replica_view(edge, name))["state"] == state

    await until(reached)


async def served_by(edge: RunningEdge, requests: int = 6) -> set[str]:
    """The replicas that answer so many requests."""
    answers = [await edge.chat() for _ in range(requests)]
    assert all(answer.status_code == 200 for answer in answers)
    return {answer.headers["x-pointsman-replica"] for answer in answers}


async def test_an_endpoint_that_fails_its_check_says_what_haproxy_saw() -> None:
    """Checked at a path that it does not have, it is down with the 404 it answers, and up once another is named."""
    async with replica() as odd, running_up(0) as edge:
        await edge.admin.put("/v1/replicas/odd", json={"url": odd.url, "health_path": "/not-here"})
        await reaches(edge, "odd", "down")

        async def answered() -> bool:
            """While a check runs, HAProxy has no code of it."""
            return (await replica_view(edge, "odd"))["last_check"]["code"] is not None

        await until(answered)
        down = await replica_view(edge, "odd")
        check = down["last_check"]
        assert (check["status"], check["code"]) == ("L7STS", 404)
        assert check["detail"].startswith("Layer7 wrong status, code 404") and check["duration_ms"] >= 0
        assert down["why"].startswith("The health check GET /not-here failed: Layer7 wrong status, code 404")
        await edge.admin.put("/v1/replicas/odd", json={"url": odd.url})
        await reaches(edge, "odd", "up")

        async def passed() -> bool:
            return (await replica_view(edge, "odd"))["last_check"]["code"] == 200

        await until(passed)
        up = await replica_view(edge, "odd")
        assert up["why"] is None and up["since"] > down["since"]


async def test_an_edge_says_where_its_settings_come_from() -> None:
    """Those that `up` chose, those of a section of its file, and defaults; the document of its state is whole."""
    router = {"limits": {"max_sessions": 1000}, "policy": {"policy": "least_load"}}
    async with running_up(1, router=router) as edge:
        values = (await edge.admin.get("/v1/config")).json()["values"]
        sources = {one["key"]: (one["value"], one["source"]) for one in values}
        section = f"{edge.run_dir.parent / 'up.yaml'}, section router"
        assert sources["limits.max_sessions"] == (1000, section)
        assert sources["policy"] == ({"policy": "least_load"}, section)
        assert sources["limits.max_replicas"] == (4096, "default")
        assert sources["edge.admin_socket"] == (str(edge.run_dir / "admin.sock"), "pointsman up")
        await reaches(edge, "sim-1", "up")
        await edge.chat()
        status = (await edge.admin.get("/v1/status")).json()
        assert (status["state"], status["policy"]["name"], status["haproxy"]["attached"]) == (
            "ready",
            "least_load",
            True,
        )
        assert status["lookups"] >= 1 and status["replicas"]["by_state"] == {"up": 1}


async def test_traffic_returns_to_a_replica_that_is_undrained() -> None:
    """Drained it gets nothing; undrained it serves again, without registering again."""
    async with (
        replica() as a,
        replica() as b,
        running_up(
            0,
            router={
                "replicas": [{"id": "a", "url": a.url}, {"id": "b", "url": b.url}],
                "policy": {"policy": "round_robin"},
            },
        ) as edge,
    ):
        for name in "ab":
            await reaches(edge, name, "up")
        assert await served_by(edge) == {"a", "b"}
        await edge.admin.post("/v1/replicas/a/drain")
        assert await served_by(edge) == {"b"}
        await reaches(edge, "a", "draining")
        assert (await edge.admin.delete("/v1/replicas/a/drain")).json()["state"] == "up"
        assert await served_by(edge) == {"a", "b"}
        await edge.admin.post("/v1/replicas/b/drain")
        await edge.admin.post("/v1/replicas/a/drain")
        unready = await edge.admin.get("/readyz")
        assert unready.status_code == 503 and "2 draining" in unready.text
        await edge.admin.post("/v1/replicas/b/undrain")
        assert await served_by(edge) == {"b"}
        assert (await edge.admin.get("/readyz")).status_code == 200


async def test_a_session_moves_and_is_forgotten() -> None:
    """Its next answer comes from where it was moved to, with that reason; forgotten, it begins again."""
    async with running_up(2) as edge:
        for name in ("sim-1", "sim-2"):
            await reaches(edge, name, "up")
        first = await edge.chat("moved " * 400, session="mine")
        home = first.headers["x-pointsman-replica"]
        target = "sim-2" if home == "sim-1" else "sim-1"

        async def known() -> bool:
            listed = (await edge.admin.get(f"/v1/sessions?replica={home}")).json()["sessions"]
            return [session["key"] for session in listed] == ["mine"]

        await until(known)
        moved = await edge.admin.put("/v1/sessions/mine", json={"replica": target})
        assert (moved.status_code, moved.json()["moving"]) == (200, True)
        second = await edge.chat("moved " * 400, session="mine")
        assert second.headers["x-pointsman-replica"] == target
        assert second.headers["x-pointsman-reason"] == "session-moved-order"
        view = (await edge.admin.get("/v1/sessions/mine")).json()
        assert (view["replica"], view["moving"], view["turns"]) == (target, False, 2)
        assert (await edge.admin.delete("/v1/sessions/mine")).status_code == 204
        assert (await edge.admin.get("/v1/sessions/mine")).status_code == 404
        await edge.chat("moved " * 400, session="mine")
        assert (await edge.admin.get("/v1/sessions/mine")).json()["turns"] == 1
