"""Plain endpoints behind a whole edge: servers that know nothing of us, joined by URL."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from contextlib import AsyncExitStack
from typing import Any

import pytest
from edge import RunningEdge, running_up, until
from sim_replica import client_of, replica

from pointsman.engine.sim.server import SimServer

pytestmark = [pytest.mark.e2e, pytest.mark.system]


PATIENT = {"timeouts": {"processing_ms": 5000, "router_check_ms": 1000}}
"""So that a machine that is busy with other things does not make the edge fail open."""


def static(**servers: SimServer) -> list[dict[str, Any]]:
    """The `replicas` section of a router's file."""
    return [{"id": name, "url": server.url} for name, server in servers.items()]


async def all_up(edge: RunningEdge, *names: str) -> None:
    async def reached() -> bool:
        states = await edge.states()
        return all(states.get(name) == "up" for name in names)

    await until(reached)


async def test_configured_urls_serve_and_tell_their_size_and_model() -> None:
    """Nobody named a model or a capacity: the router read both."""
    async with (
        replica(kv_tokens=32_768, model="tiny") as a,
        replica(kv_tokens=65_536, model="tiny") as b,
        running_up(0, router={"replicas": static(a=a, b=b)}, haproxy=PATIENT) as edge,
    ):
        await all_up(edge, "a", "b")
        served = Counter([(await edge.chat(model="tiny")).headers["x-pointsman-replica"] for _ in range(8)])
        assert served.keys() == {"a", "b"}

        async def told() -> bool:
            metrics = await edge.metrics()
            sizes = [metrics.get(f'pointsman_kv_capacity_tokens{{replica="{name}"}}') for name in "ab"]
            return sizes == [32_768, 65_536]

        await until(told)
        assert {view["model"] for view in (await edge.replicas()).values()} == {"tiny"}


async def test_an_endpoint_leaves_when_it_is_down_and_returns_by_itself() -> None:
    """Its port closes, then opens: nobody tells the router, and no client sees an error."""
    async with (
        replica(faults=True) as a,
        replica() as b,
        client_of(a) as direct,
        running_up(0, router={"replicas": static(a=a, b=b)}, haproxy=PATIENT) as edge,
    ):
        await all_up(edge, "a", "b")
        await direct.post("/sim/fault", json={"refuse": True})
        down = asyncio.create_task(until(lambda: _state_is(edge, "a", "down")))
        while not down.done():
            assert (await edge.chat()).status_code == 200
        await down
        assert {(await edge.chat()).headers["x-pointsman-replica"] for _ in range(4)} == {"b"}
        await direct.post("/sim/fault", json={"refuse": False})
        await until(lambda: _state_is(edge, "a", "up"))

        async def serves_again() -> bool:
            return (await edge.chat()).headers["x-pointsman-replica"] == "a"

        await until(serves_again)


async def test_work_that_comes_past_the_edge_counts_as_load() -> None:
    """Another client keeps one endpoint busy directly; what comes through the edge goes to the other."""
    async with AsyncExitStack() as stack:
        a = await stack.enter_async_context(replica(token_interval_ms=20.0))
        b = await stack.enter_async_context(replica())
        direct = await stack.enter_async_context(client_of(a))
        edge = await stack.enter_async_context(
            running_up(
                0,
                router={
                    "replicas": static(a=a, b=b),
                    "policy": {"policy": "least_load"},
                    "scrape": {"interval_s": 0.05, "idle_interval_s": 0.1},
                },
                haproxy=PATIENT,
            )
        )
        await all_up(edge, "a", "b")
        body = {"model": "sim", "prompt": "x", "max_tokens": 100_000, "ignore_eos": True, "stream": True}
        for _ in range(3):
            await stack.enter_async_context(direct.stream("POST", "/v1/completions", json=body))

        async def seen() -> bool:
            return (await edge.metrics())['pointsman_in_flight_outside{replica="a"}'] == 3

        await until(seen)
        assert {(await edge.chat()).headers["x-pointsman-replica"] for _ in range(6)} == {"b"}


async def test_a_server_without_health_or_metrics_is_checked_where_it_answers() -> None:
    """Any OpenAI-compatible server: its list of models is its health check, and looks at its load are counted as
    failed."""
    async with replica(faults=True) as odd, client_of(odd) as direct:
        await direct.post("/sim/fault", json={"health": False, "metrics": False})
        async with running_up(0, router={"scrape": {"idle_interval_s": 0.1}}) as edge:
            await edge.admin.put("/v1/replicas/odd", json={"url": odd.url, "health_path": "/v1/models"})
            await all_up(edge, "odd")
            assert (await edge.chat()).headers["x-pointsman-replica"] == "odd"

            async def counted() -> bool:
                return (await edge.metrics()).get('pointsman_scrapes_total{result="failed",what="metrics"}', 0) > 1

            await until(counted)
            assert (await edge.chat()).status_code == 200
            # The path survives a reload of HAProxy, which forgets its maps.
            edge.process.send_signal(signal.SIGHUP)
            before = (await edge.metrics())["pointsman_haproxy_restarts_total"]

            async def reloaded() -> bool:
                return (await edge.metrics())["pointsman_haproxy_restarts_total"] > before

            await until(reloaded)
            await all_up(edge, "odd")
            assert (await edge.chat()).status_code == 200


async def _state_is(edge: RunningEdge, name: str, state: str) -> bool:
    return (await edge.states())[name] == state


async def test_two_models_behind_one_edge() -> None:
    """The name decides who serves; the list has both, with what their servers say of them; other names are refused."""
    async with (
        replica(model="org/tiny", max_model_len=2048) as a,
        replica(model="large", faults=True) as b,
        client_of(b) as direct,
        running_up(0, router={"replicas": static(a=a, b=b)}, haproxy=PATIENT) as edge,
    ):
        await all_up(edge, "a", "b")

        async def listed() -> dict[str, Any]:
            answer = await edge.client.get("/v1/models")
            return {card["id"]: card for card in answer.json()["data"]}

        async def both() -> bool:
            return (await listed()).keys() == {"org/tiny", "large"}

        await until(both)
        assert (await listed())["org/tiny"]["max_model_len"] == 2048
        assert (await edge.client.get("/v1/models/org/tiny")).json()["id"] == "org/tiny"
        assert (await edge.client.get("/v1/models/gpt-9")).status_code == 404
        for model, name in (("org/tiny", "a"), ("large", "b")):
            served = {(await edge.chat(model=model)).headers["x-pointsman-replica"] for _ in range(5)}
            assert served == {name}
        unknown = await edge.chat(model="gpt-é")
        assert unknown.status_code == 404 and unknown.headers["x-pointsman-reason"] == "unknown-model"
        assert unknown.json()["error"] == {
            "message": "The model `gpt-é` does not exist.", "type": "NotFoundError", "param": "model", "code": 404,
        }  # fmt: skip
        await direct.post("/sim/fault", json={"health": False})
        await until(lambda: _state_is(edge, "b", "down"))
        away = await edge.chat(model="large")
        assert (away.status_code, away.headers["retry-after"]) == (503, "1")
        assert (await listed()).keys() == {"org/tiny", "large"}, "it is away, not gone"


async def test_the_list_of_models_survives_the_router() -> None:
    """While the router is away, any replica's own list answers."""
    async with running_up(2) as edge:
        await until(lambda: _lists(edge, "sim"))
        assert "x-pointsman-replica" not in (await edge.client.get("/v1/models")).headers
        edge.router().suspend()
        try:

            async def from_a_replica() -> bool:
                answer = await edge.client.get("/v1/models")
                return answer.status_code == 200 and "x-pointsman-replica" in answer.headers

            await until(from_a_replica)
        finally:
            edge.router().resume()


async def _lists(edge: RunningEdge, name: str) -> bool:
    return name in [card["id"] for card in (await edge.client.get("/v1/models")).json()["data"]]


async def test_an_endpoint_whose_health_check_hangs_is_taken_out() -> None:
    """An engine that is stuck accepts connections and answers nothing: checks run out, the others serve."""
    fast = {"check_timeout_ms": 200, "inter_ms": 100}
    async with (
        replica(faults=True) as a,
        replica() as b,
        client_of(a) as direct,
        running_up(0, router={"replicas": static(a=a, b=b)}, haproxy={**PATIENT, "server_options": fast}) as edge,
    ):
        await all_up(edge, "a", "b")
        await direct.post("/sim/fault", json={"health_hang": True})
        await until(lambda: _state_is(edge, "a", "down"))
        assert {(await edge.chat()).headers["x-pointsman-replica"] for _ in range(4)} == {"b"}
        await direct.post("/sim/fault", json={"health_hang": False})
        await until(lambda: _state_is(edge, "a", "up"))
