"""Which requests are traced, and what their replicas are told."""

from __future__ import annotations

import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from recorded_fleet import RecordedFleet

from pointsman.router.decide.trace_context import Parent, Traces, read_traceparent

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED, UNSAMPLED = f"00-{TRACE}-{SPAN}-01".encode(), f"00-{TRACE}-{SPAN}-00".encode()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(SAMPLED, Parent(int(TRACE, 16), int(SPAN, 16), True), id="sampled"),
        pytest.param(UNSAMPLED, Parent(int(TRACE, 16), int(SPAN, 16), False), id="not sampled"),
        pytest.param(SAMPLED[:-2] + b"03", Parent(int(TRACE, 16), int(SPAN, 16), True), id="another flag too"),
        pytest.param(b"01" + SAMPLED[2:] + b"-more", Parent(int(TRACE, 16), int(SPAN, 16), True), id="a later version"),
        pytest.param(SAMPLED + b"-more", None, id="more than version 00 has"),
        pytest.param(b"ff" + SAMPLED[2:], None, id="version ff"),
        pytest.param(SAMPLED.upper(), None, id="upper case"),
        pytest.param(f"00-{'0' * 32}-{SPAN}-01".encode(), None, id="no trace"),
        pytest.param(f"00-{TRACE}-{'0' * 16}-01".encode(), None, id="no span"),
        pytest.param(SAMPLED[:-1], None, id="cut"),
        pytest.param(b"", None, id="empty"),
    ],
)
def test_traceparents_are_read_as_w3c_has_them(text: bytes, expected: Parent | None) -> None:
    assert read_traceparent(text) == expected


@given(st.binary(max_size=80))
def test_any_bytes_are_read(text: bytes) -> None:
    assert read_traceparent(text) is None or text[2:3] == b"-"


class Edge:
    """A fleet that decides requests, and the traces of them."""

    def __init__(self, sample: float = 0.0) -> None:
        self.fleet = RecordedFleet()
        self.traces = Traces(self.fleet.log, random.Random(1), sample=sample)

    def traced(self, request_id: str, traceparent: bytes | None = None) -> str:
        self.fleet.ask(request_id)
        return self.traces.start({"id": request_id.encode(), "traceparent": traceparent})


def test_the_span_is_a_child_of_the_clients() -> None:
    """Same trace, a span of its own, and the replica's will be its child."""
    edge = Edge()
    told = edge.traced("r", SAMPLED)
    version, trace, span, flags = told.split("-")
    assert (version, trace, flags) == ("00", TRACE, "01") and span != SPAN and int(span, 16)
    context = edge.fleet.record("r").trace
    assert context is not None and context.traceparent == told
    assert (context.trace_id, context.parent_id) == (int(TRACE, 16), int(SPAN, 16))
    assert edge.fleet.view("r").trace_id == TRACE


def test_a_client_that_does_not_trace_is_not_traced() -> None:
    """Whatever the share; HAProxy passes its header on as it came."""
    edge = Edge(sample=1.0)
    assert edge.traced("r", UNSAMPLED) == "" and edge.fleet.record("r").trace is None


@pytest.mark.parametrize("traceparent", [None, b"nonsense"])
def test_a_share_of_other_requests_begins_a_trace(traceparent: bytes | None) -> None:
    """2,000 draws of 25 %: 500, give or take five deviations of 19."""
    edge = Edge(sample=0.25)
    told = [edge.traced(str(number), traceparent) for number in range(2000)]
    begun = [one for one in told if one]
    assert 400 < len(begun) < 600 and len(set(begun)) == len(begun)
    assert all(re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-01", one) for one in begun)
    traced = [record for record in edge.fleet.log if record.trace is not None]
    assert {record.trace.parent_id for record in traced if record.trace} == {0}
    assert not any(Edge(sample=0.0).traced("r", traceparent) for _ in range(100))


def test_a_request_without_a_record_is_not_traced() -> None:
    """There would be nothing to make its span of."""
    edge = Edge(sample=1.0)
    assert edge.traces.start({"id": b"unknown", "traceparent": SAMPLED}) == ""
    assert edge.traces.start({}) == ""
