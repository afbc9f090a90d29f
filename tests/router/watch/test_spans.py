"""Spans made of records, as a collector gets them."""

from __future__ import annotations

import random
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode, get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from recorded_fleet import CHAIN, NOON_S, RecordedFleet

from pointsman.router.decide.trace_context import Traces
from pointsman.router.watch.spans import SpanExport, otlp_exporter

TRACE, PARENT = 0x4BF92F3577B34DA6A3CE929D0E0E4736, 0x00F067AA0BA902B7
TRACEPARENT = f"00-{TRACE:032x}-{PARENT:016x}-01".encode()


class TracedFleet(RecordedFleet):
    """A fleet whose requests are traced."""

    def __init__(self, *names: str, **options: Any) -> None:
        super().__init__(*names, **options)
        self.collector = InMemorySpanExporter()
        self.export = SpanExport(self.collector, hash_key="k", edge="edge-1")
        self.traces = Traces(self.log, random.Random(1), sample=1.0)

    def trace(self, request_id: str, traceparent: bytes | None = TRACEPARENT) -> str:
        return self.traces.start({"id": request_id.encode(), "traceparent": traceparent})

    def span(self, request_id: str) -> ReadableSpan:
        self.export.add(self.record(request_id), self.view(request_id), NOON_S)
        assert len(self.export) == 1 and self.export.send() == (1, True)
        (span,) = self.collector.get_finished_spans()
        self.collector.clear()
        return span


def test_a_span_says_why_and_what_came() -> None:
    """The whole span of one request of a conversation."""
    fleet = TracedFleet()
    home = fleet.ask("one", keys=20, session="s").first
    fleet.report(home, stored=list(CHAIN[:20]))
    fleet.answer("one", home, prompt=2500)
    fleet.end("one", home)
    fleet.ask("two", keys=22, session="s", path="/v1/chat/completions", model="", tenant="acme", now_s=2.0)
    told = fleet.trace("two")
    fleet.answer("two", home, prompt=2700, cached=2496, now_s=2.2)
    fleet.end("two", home, now_s=2.6, ttft="61")
    span = fleet.span("two")
    assert span.name == "pointsman.route" and span.kind is SpanKind.CLIENT
    assert span.context is not None and span.parent is not None
    assert told == f"00-{span.context.trace_id:032x}-{span.context.span_id:016x}-01"
    assert (span.context.trace_id, span.parent.span_id) == (TRACE, PARENT) and span.parent.is_remote
    assert (span.start_time, span.end_time) == (round((NOON_S + 2.0) * 1e9), round((NOON_S + 2.6) * 1e9))
    assert [(event.name, event.timestamp) for event in span.events] == [("first token", round((NOON_S + 2.061) * 1e9))]
    assert span.status.status_code is StatusCode.UNSET
    assert span.resource.attributes["service.name"] == "pointsman"
    assert span.resource.attributes["service.instance.id"] == "edge-1"
    found = dict(span.attributes or {})
    terms = {name for name in found if name.startswith("pointsman.terms.")}
    assert terms == {f"pointsman.terms.{name}" for name in ("queue", "miss", "evict", "interference", "tie")}
    assert found["pointsman.score"] == pytest.approx(sum(found[name] for name in terms), abs=0.01)
    assert len(found.pop("pointsman.session.hash")) == 16
    predicted = found.pop("pointsman.predicted.cached_tokens")
    assert 2000 < predicted <= found.pop("pointsman.predicted.prompt_tokens")
    other = next(name for name in "ab" if name != home)
    assert {name: value for name, value in found.items() if name not in terms | {"pointsman.score"}} == {
        "pointsman.decision.id": "two",
        "pointsman.reason": "kv-home",
        "pointsman.policy": "kv_cost",
        "pointsman.policy.revision": 1,
        "url.path": "/v1/chat/completions",
        "pointsman.tenant": "acme",
        "pointsman.first": home,
        "pointsman.second": other,
        "pointsman.replica": home,
        "http.response.status_code": 200,
        "pointsman.ttft_ms": 61.0,
        "pointsman.ended": "stop",
        "gen_ai.usage.input_tokens": 2700,
        "gen_ai.usage.cache_read.input_tokens": 2496,
        "gen_ai.usage.output_tokens": 50,
    }


def test_a_replica_reads_our_span_as_its_parent() -> None:
    """With OpenTelemetry's own reader, which vLLM uses."""
    fleet = TracedFleet()
    fleet.ask("r")
    carrier = {"traceparent": fleet.trace("r"), "tracestate": "vendor=opaque"}
    parent = get_current_span(TraceContextTextMapPropagator().extract(carrier)).get_span_context()
    context = fleet.record("r").trace
    assert context is not None and parent.is_remote and parent.trace_flags.sampled
    assert (parent.trace_id, parent.span_id) == (context.trace_id, context.span_id)


def test_a_trace_that_begins_here_has_no_parent() -> None:
    fleet = TracedFleet()
    home = fleet.ask("r").first
    told = fleet.trace("r", None)
    fleet.end("r", home)
    span = fleet.span("r")
    assert span.parent is None and span.context is not None
    assert told == f"00-{span.context.trace_id:032x}-{span.context.span_id:016x}-01"


def test_a_request_that_waited_began_before_its_decision() -> None:
    fleet = TracedFleet()
    home = fleet.ask("r", now_s=5.0).first
    fleet.trace("r")
    fleet.record("r").held_s = 1.5
    fleet.end("r", home, now_s=6.0)
    span = fleet.span("r")
    assert span.start_time == round((NOON_S + 3.5) * 1e9)
    assert (span.attributes or {})["pointsman.held_ms"] == 1500.0


@pytest.mark.parametrize(
    ("said", "is_error"),
    [({"st": 200}, False), ({"st": 503}, True), ({"ts": "SD"}, True), ({"ts": "CD"}, False), ({"st": 429}, False)],
)
def test_errors_are_the_services(said: dict[str, Any], is_error: bool) -> None:
    """A replica's, an edge's, or a status of 500 and more; a client may leave, and be refused."""
    fleet = TracedFleet()
    home = fleet.ask("r").first
    fleet.trace("r")
    fleet.end("r", home, **said)
    assert (fleet.span("r").status.status_code is StatusCode.ERROR) is is_error


def test_another_policy_has_no_terms() -> None:
    fleet = TracedFleet(policy="round_robin")
    home = fleet.ask("r").first
    fleet.trace("r")
    fleet.end("r", home)
    assert not [name for name in fleet.span("r").attributes or {} if "terms" in name or "predicted" in name]


@pytest.mark.parametrize(
    ("endpoint", "url"),
    [
        ("http://127.0.0.1:4318", "http://127.0.0.1:4318/v1/traces"),
        ("http://127.0.0.1:4318/", "http://127.0.0.1:4318/v1/traces"),
        ("https://collector/otlp/v1/traces", "https://collector/otlp/v1/traces"),
    ],
)
def test_the_path_of_traces_is_added_to_an_endpoint_without_a_path(endpoint: str, url: str) -> None:
    assert otlp_exporter(endpoint)._endpoint == url  # type: ignore[attr-defined]
