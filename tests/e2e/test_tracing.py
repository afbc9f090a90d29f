"""Trace contexts through the real HAProxy, and the spans of a whole edge."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from edge import RunningEdge, running_up
from haproxy_fixture import Edge, running_edge
from otlp_receiver import running_collector

pytestmark = [pytest.mark.e2e, pytest.mark.system]

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"
CHILD = f"00-{TRACE}-00000000000000aa-01"
TRACESTATE = "vendor=opaque,other=1"
CONTEXT = (("traceparent", TRACEPARENT), ("tracestate", TRACESTATE))


def received(edge: Edge, replica: str = "r1") -> dict[str, str | None]:
    """The trace context that a replica got with its latest request."""
    request = edge.replicas[replica].received[-1]
    return {name: request.header(name) for name in ("traceparent", "tracestate")}


@pytest.mark.parametrize("lookup", ["spoe", "lua"])
async def test_a_trace_context_passes_unchanged(tmp_path: Path, lookup: str) -> None:
    """Whether requests are looked up or not; the router hears nothing of it."""
    async with running_edge(tmp_path, replicas=1, lookup=lookup) as edge:
        for method, target in (("POST", "/v1/chat/completions"), ("GET", "/v1/files")):
            assert (await edge.ask(method, target, headers=CONTEXT)).status == 200
            assert received(edge) == {"traceparent": TRACEPARENT, "tracestate": TRACESTATE}
        assert all("traceparent" not in asked for asked in edge.router.asked)
        # What a router would answer is not asked for, and not taken.
        edge.router.answer = lambda _: {"first": "r1", "reason": "hash", "trace": CHILD}
        await edge.ask(headers=CONTEXT)
        assert received(edge)["traceparent"] == TRACEPARENT


@pytest.mark.parametrize("lookup", ["spoe", "lua"])
async def test_the_replica_gets_the_routers_span(tmp_path: Path, lookup: str) -> None:
    """Where the router answers with one, with the client's `tracestate`; else what the client sent."""
    async with running_edge(tmp_path, replicas=1, lookup=lookup, tracing=True) as edge:
        edge.router.answer = lambda _: {"first": "r1", "reason": "hash", "trace": CHILD}
        await edge.ask(headers=CONTEXT)
        asked = edge.router.asked[-1]["traceparent"]
        assert (asked.decode() if isinstance(asked, bytes) else asked) == TRACEPARENT
        assert received(edge) == {"traceparent": CHILD, "tracestate": TRACESTATE}
        await edge.ask()
        assert edge.router.asked[-1].get("traceparent") is None
        assert received(edge) == {"traceparent": CHILD, "tracestate": None}
        edge.router.answer = lambda _: {"first": "r1", "reason": "hash"}
        await edge.ask(headers=CONTEXT)
        assert received(edge) == {"traceparent": TRACEPARENT, "tracestate": TRACESTATE}
        await edge.router.stop()
        await edge.router_is("DOWN")
        await edge.ask(headers=CONTEXT)
        assert received(edge) == {"traceparent": TRACEPARENT, "tracestate": TRACESTATE}


async def echoed(edge: RunningEdge, **headers: str) -> dict[str, Any]:
    """The headers of one request as the replica got them."""
    answer = await edge.client.post("/echo", json={"model": "sim"}, headers=headers)
    assert answer.status_code == 200 and "x-pointsman-reason" in answer.headers, answer.text
    return dict(json.loads(answer.text)["headers"])


@pytest.mark.parametrize("lookup", ["spoe", "lua"])
async def test_a_whole_edge_sends_spans(lookup: str) -> None:
    """The collector gets the client's trace with a span of ours in it, and the replica gets that span as its parent."""
    async with running_collector() as collector:
        router = {"tracing": {"endpoint": collector.url, "sample": 1.0}}
        haproxy = {"generation_paths": ["/echo"]}
        engine = {"timing": "fast", "echo": True}
        async with running_up(2, "--lookup", lookup, engine=engine, router=router, haproxy=haproxy) as edge:
            continued = await echoed(edge, traceparent=TRACEPARENT, tracestate=TRACESTATE)
            begun = await echoed(edge)
            left = await echoed(edge, traceparent=TRACEPARENT[:-1] + "0")
            assert left["traceparent"] == TRACEPARENT[:-1] + "0" and "tracestate" not in begun
            assert continued["tracestate"] == TRACESTATE
            spans = await collector.wait_for(2)
            await asyncio.sleep(1.5)
            assert len(spans) == 2
            by_header = {f"00-{span.trace_id}-{span.span_id}-01": span for span in spans}
            ours, own = by_header[continued["traceparent"]], by_header[begun["traceparent"]]
            assert (ours.trace_id, ours.parent_id, own.parent_id) == (TRACE, PARENT, "")
            assert ours.attributes["http.response.status_code"] == 200
            assert ours.attributes["pointsman.decision.id"] == continued["x-request-id"]
            assert ours.attributes["pointsman.replica"] == ours.attributes["pointsman.first"]
            assert ours.seconds > 0 and not ours.is_error
            metrics = await edge.metrics()
            assert metrics['pointsman_spans_total{outcome="sent"}'] == 2
