"""Tracing of a whole router: from a lookup's `traceparent` to the collector."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest
from otlp_receiver import Collector, running_collector
from ring_line import line
from router_fixture import client_of, register, running_router

from pointsman.router.app import Router
from pointsman.router.errors import SettingsError
from pointsman.router.settings import load_settings
from pointsman.router.watch import tracing

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"


@asynccontextmanager
async def edge(collector: Collector, **settings: Any) -> AsyncIterator[Router]:
    tracing_of = {"endpoint": collector.url, "sample": 0.0}
    async with running_router(tracing=tracing_of, scrape={"enabled": False}, **settings) as router:
        await register(router, "a", "b")
        yield router


async def lookup(
    router: Router, request_id: str, traceparent: str = TRACEPARENT, *, path: str = "/lookup", size: int = 10
) -> str:
    """The `traceparent` for the replica, empty without one."""
    form = {"id": request_id, "path": "/v1/completions", "session": request_id, "size": size, "seen": size}
    if traceparent:
        form["traceparent"] = traceparent
    async with httpx.AsyncClient(base_url=f"http://{router.addresses['lookup']}") as client:
        answer = await client.post(path, content=urlencode(form))
    told = dict(pair.split("=", 1) for pair in answer.text.splitlines())
    return told.get("trace", "")


def end(router: Router, request_id: str, **said: Any) -> None:
    router.core.end_of_request.apply(line(id=request_id, srv="a", first="a", **said), router.clock())


async def test_spans_of_ended_requests_reach_the_collector(monkeypatch: pytest.MonkeyPatch) -> None:
    """One for each that its client traces; the last ones when the router stops."""
    monkeypatch.setattr(tracing, "STEP_S", 0.05)
    async with running_collector() as collector:
        async with edge(collector) as router:
            told = [await lookup(router, f"r{number}") for number in range(3)]
            assert await lookup(router, "untraced", "") == ""
            assert await lookup(router, "unsampled", TRACEPARENT[:-1] + "0") == ""
            for request_id in ("r0", "r1", "untraced", "unsampled"):
                end(router, request_id)
            spans = await collector.wait_for(2)
            assert [f"00-{span.trace_id}-{span.span_id}-01" for span in spans] == told[:2]
            assert {span.parent_id for span in spans} == {PARENT}
            assert spans[0].attributes["pointsman.decision.id"] == "r0"
            assert spans[0].resource["service.name"] == "pointsman"
            async with client_of(router) as client:
                assert (await client.get("/v1/decisions/r0")).json()["trace_id"] == TRACE
                page = (await client.get("/metrics")).text
                assert 'pointsman_spans_total{outcome="sent"} 2.0' in page
            end(router, "r2")
        assert len(collector.spans) == 3
        assert collector.paths == {"/v1/traces"}


async def test_a_collector_that_is_away_costs_spans_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are counted, `/readyz` says so while it lasts, and the router stops as quickly as ever."""
    monkeypatch.setattr(tracing, "STEP_S", 0.05)
    async with running_collector() as collector:
        collector.status = 400
        async with edge(collector) as router:
            assert router.tracing is not None
            await lookup(router, "r1")
            end(router, "r1")
            async with asyncio.timeout(20):
                while not router.tracing.lost:
                    await asyncio.sleep(0.02)
            assert any("tracing" in part for part in router.readiness.degraded_parts())
            collector.status = 200
            await lookup(router, "r2")
            end(router, "r2")
            await collector.wait_for(1)
            async with asyncio.timeout(20):
                while router.readiness.degraded_parts():
                    await asyncio.sleep(0.02)
            assert (router.tracing.sent, router.tracing.lost) == (1, 1)
    away = Collector()
    away.url = "http://127.0.0.1:9"
    async with edge(away) as router:
        await lookup(router, "r1")
        end(router, "r1")
        stopping = router.clock()
    assert router.clock() - stopping < 10, "a collector that is away does not keep the router"


async def test_a_held_request_is_traced_when_it_goes() -> None:
    """Not when it is told to wait; then by the answer that it waited for."""
    policy = {"policy": "kv_cost", "admission": {"limit": 1.0, "wait_s": 20}}
    async with running_collector() as collector, edge(collector, policy=policy) as router:
        for slot in range(2):
            router.core.kv.columns.set_capacity(slot, 600)
        assert await lookup(router, "r1", size=4000)
        assert await lookup(router, "r2", size=4000) == ""
        going = asyncio.create_task(lookup(router, "r2", path="/hold", size=4000))
        async with asyncio.timeout(20):
            while not router.core.holds.held:
                await asyncio.sleep(0.01)
        for slot in range(2):
            router.core.kv.columns.set_capacity(slot, 10_000_000)
        assert (await going).startswith(f"00-{TRACE}-")


def test_without_an_endpoint_nothing_of_opentelemetry_is_imported() -> None:
    """Nor by the fronts, the feed, or the settings."""
    code = "import sys, pointsman.router.app; sys.exit(any(name.startswith('opentelemetry') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        ({"tracing": {"endpoint": "collector:4318"}}, "tracing.endpoint"),
        ({"tracing": {"endpoint": "http://c:4318", "sample": 1.5}}, "tracing.sample"),
        ({"tracing": {"endpoint": "http://c:4318"}, "decisions": {"max_records": 0}}, "decisions.max_records"),
    ],
)
def test_settings_that_cannot_work_are_refused(overrides: dict[str, Any], key: str) -> None:
    with pytest.raises(SettingsError) as refused:
        load_settings(environment={}, overrides=overrides)
    assert refused.value.key == key


def test_without_the_extra_an_endpoint_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the command that installs it."""
    monkeypatch.setattr("pointsman.router.settings.has_exporter", lambda: False)
    with pytest.raises(SettingsError, match=r"pip install 'pointsman\[otel\]'"):
        load_settings(environment={}, overrides={"tracing": {"endpoint": "http://c:4318"}})
