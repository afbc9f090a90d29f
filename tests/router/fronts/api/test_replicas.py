"""Replicas in the admin API: what people see of them, why one is out, and how they bring it back."""

from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from router_fixture import client_of, register, running_router

from pointsman.contract.events import EngineEvents, EngineLoad, FirstToken
from pointsman.haproxy.last_check import COLUMNS, CheckColumns, CheckRow
from pointsman.policies.request import RequestFeatures
from pointsman.router.app import Router
from pointsman.router.fleet.replica import Health

NOT_FOUND = CheckRow(CheckColumns.among(COLUMNS), "L7STS,404,7,,Layer7 wrong status")


async def view_of(client: httpx.AsyncClient, replica: str) -> dict[str, Any]:
    answer = await client.get(f"/v1/replicas/{replica}")
    assert answer.status_code == 200, answer.text
    view: dict[str, Any] = answer.json()
    return view


def fail(router: Router, replica: str, times: int) -> None:
    """As many requests end with a 500 of the replica."""
    for number in range(times):
        line = {"ev": "end", "id": f"q{number}", "srv": replica, "first": replica, "st": 500, "tr": 1, "routed": "1"}
        router.core.end_of_request.apply(msgspec.json.encode(line), router.clock())


@pytest.mark.parametrize(("method", "way"), [("DELETE", "drain"), ("POST", "undrain")])
async def test_a_drained_replica_comes_back(method: str, way: str) -> None:
    """By either way to say it: the answer is the replica, and so is the next decision's."""
    async with running_router() as router, client_of(router) as client:
        await register(router, "a")
        assert (await client.post("/v1/replicas/a/drain")).json()["state"] == "draining"
        drained = await view_of(client, "a")
        assert "DELETE /v1/replicas/a/drain" in drained["why"]
        answer = await client.request(method, f"/v1/replicas/a/{way}")
        assert (answer.status_code, answer.json()["state"], answer.json()["why"]) == (200, "up", None)
        assert answer.json()["since"] > drained["since"]
        assert router.core.decide(RequestFeatures(request_id="q"), router.clock()).first == "a"
        assert (await client.request(method, f"/v1/replicas/a/{way}")).json()["state"] == "up"
        assert (await client.request(method, f"/v1/replicas/b/{way}")).status_code == 404


async def test_an_undrained_replica_is_not_drained_after_a_restart(tmp_path: Path) -> None:
    """The state file has what was said last."""
    state_file = str(tmp_path / "state.json")
    async with running_router(state_file=state_file) as router, client_of(router) as client:
        await register(router, "a", "b")
        for replica in ("a", "b"):
            await client.post(f"/v1/replicas/{replica}/drain")
        await client.delete("/v1/replicas/a/drain")
    async with running_router(state_file=state_file) as router, client_of(router) as client:
        assert [(await view_of(client, replica))["state"] for replica in ("a", "b")] == ["up", "draining"]


async def test_a_replica_that_is_down_shows_the_check_that_failed() -> None:
    """The status, when it was seen, how long it took, and a sentence with the path; nothing before the first check."""
    async with running_router() as router, client_of(router) as client:
        await register(router, "a")
        assert (await view_of(client, "a"))["last_check"] is None
        router.core.replicas.checks.saw(router.core.replicas.slot_of("a"), NOT_FOUND, router.clock())
        router.core.replicas.set_health("a", Health.DOWN, router.clock())
        view = await view_of(client, "a")
        at = view["last_check"].pop("at")
        assert at.endswith("Z") and at <= view["since"]
        assert view["last_check"] == {
            "status": "L7STS", "code": 404, "detail": "Layer7 wrong status, code 404", "duration_ms": 7
        }  # fmt: skip
        assert view["why"].startswith("The health check GET /health failed: Layer7 wrong status, code 404")
        await client.put("/v1/replicas/a", json={"url": "http://127.0.0.1:1", "health_path": "/v1/models"})
        assert "GET /v1/models failed" in (await view_of(client, "a"))["why"]


async def test_a_replica_shows_its_kv_its_engine_and_its_sessions() -> None:
    """As the engine reported and as the tables reckon; unknown where nobody said anything."""
    async with running_router() as router, client_of(router) as client:
        await register(router, "a", "b")
        core = router.core
        features = RequestFeatures(request_id="q", session="s", body_bytes=4000, prefix_keys=(1, 2, 3))
        chosen = core.decide(features, router.clock()).first
        report = EngineEvents(
            epoch="e",
            seq=1,
            snapshot=True,
            stored=[1, 2, 3],
            capacity_tokens=10_000,
            first=[FirstToken("q", prompt_tokens=1000, cached_tokens=250)],
            load=EngineLoad(running=3, waiting=1, kv_usage=0.5),
        )
        core.engine_events(chosen, report, router.clock())
        view = await view_of(client, chosen)
        assert view["engine"] == {"running": 3, "waiting": 1, "kv_usage": 0.5}
        assert (view["keys"], view["sessions"], view["hit_rate"], view["hit_rate_predicted"]) == (3, 1, 0.25, 0.0)
        kv = view["kv"]
        assert (kv["capacity_tokens"], kv["footprint_tokens"], kv["usage"]) == (10_000, 1000, 0.1)
        other = await view_of(client, "b" if chosen == "a" else "a")
        assert (other["engine"], other["hit_rate"], other["keys"], other["sessions"]) == (None, None, 0, 0)
        assert other["kv"] == {
            "footprint_tokens": 0, "capacity_tokens": None, "usage": None, "backlog_tokens": 0, "backlog_ms": 0.0
        }  # fmt: skip


async def test_pinned_sessions_are_counted_where_the_policy_pins() -> None:
    """In what is read; an answer to a change does not count them."""
    async with running_router(policy={"policy": "session_affinity"}) as router, client_of(router) as client:
        await register(router, "a")
        for number in range(3):
            router.core.decide(RequestFeatures(request_id=f"q{number}", session=f"s{number}"), router.clock())
        assert (await view_of(client, "a"))["sessions"] == 3
        assert (await client.get("/v1/replicas")).json()["replicas"][0]["sessions"] == 3
        assert (await client.post("/v1/replicas/a/drain")).json()["sessions"] is None


async def test_a_reset_brings_an_ejected_replica_back() -> None:
    """At once, without a probe; a replica that is well stays as it is."""
    async with running_router() as router, client_of(router) as client:
        await register(router, "a", "b", "c")
        fail(router, "a", 5)
        ejected = await view_of(client, "a")
        assert (ejected["state"], ejected["cause"], ejected["failures"]) == ("ejected", "error", 5)
        assert ejected["why"].startswith("Ejected after 5 failed answers, the last by error: probed from ")
        assert ejected["until"] > ejected["since"]
        for _ in range(2):
            answer = await client.post("/v1/replicas/a/reset")
            assert answer.status_code == 200
            assert (answer.json()["state"], answer.json()["why"], answer.json()["cause"]) == ("up", None, None)
        fail(router, "a", 4)
        assert (await view_of(client, "a"))["state"] == "up"
        assert (await client.post("/v1/replicas/nobody/reset")).status_code == 404


@pytest.mark.parametrize(
    ("query", "replicas"),
    [
        pytest.param("", ["chat-1", "chat-2", "embed-1", "prefill-1"], id="all"),
        pytest.param("?state=draining", ["chat-2"], id="state"),
        pytest.param("?state=down", [], id="none in that state"),
        pytest.param("?model=chat", ["chat-1", "chat-2", "prefill-1"], id="model"),
        pytest.param("?model=sql", ["chat-1"], id="adapter"),
        pytest.param("?model=nope", [], id="unknown model"),
        pytest.param("?role=prefill", ["prefill-1"], id="role"),
        pytest.param("?pool=p", ["chat-1"], id="pool"),
        pytest.param("?state=up&model=chat&role=both", ["chat-1"], id="several"),
    ],
)
async def test_replicas_are_listed_by_what_they_are(query: str, replicas: list[str]) -> None:
    """All filters that are given hold."""
    async with running_router() as router, client_of(router) as client:
        for number, (name, more) in enumerate(
            {
                "chat-1": {"model": "chat", "adapters": ["sql"], "pool": "p"},
                "chat-2": {"model": "chat"},
                "embed-1": {"model": "embed"},
                "prefill-1": {"model": "chat", "role": "prefill"},
            }.items(),
            1,
        ):
            body = {"url": f"http://127.0.0.1:{number}", **more}
            assert (await client.put(f"/v1/replicas/{name}", json=body)).status_code == 201
        await client.post("/v1/replicas/chat-2/drain")
        answer = await client.get(f"/v1/replicas{query}")
        assert [replica["id"] for replica in answer.json()["replicas"]] == replicas


@pytest.mark.parametrize(
    ("query", "choices"), [("state=gone", "ejected"), ("role=judge", "decode"), ("stat=up", "state")]
)
async def test_a_filter_that_there_is_not_is_refused(query: str, choices: str) -> None:
    """With the choices: a misspelt filter must not show the whole fleet, nor none of it."""
    async with running_router() as router, client_of(router) as client:
        answer = await client.get(f"/v1/replicas?{query}")
        assert answer.status_code == 422 and choices in answer.text
