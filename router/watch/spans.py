"""Spans of traced requests, made of their records and sent over OTLP (HTTP, protobuf).

One span for each request, from the decision to the end: who decided and why, the terms of the score, what was predicted
and what came. Ids were drawn at the decision, so that the replica's span is a child of it. Attributes have the names of
OpenTelemetry's conventions where there are any, else they begin with `pointsman.`; what is not known is absent.

The module imports OpenTelemetry's SDK, an extra of the package: `pointsman.router.watch.tracing` imports it where
spans are wanted.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator

from msgspec import UNSET
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)

from pointsman.router.decide.decision_view import HASH_BYTES, DecisionOutcome, DecisionView
from pointsman.router.process.version import product_version
from pointsman.router.requests.decision_record import DecisionRecord, TraceContext

SERVICE = "pointsman"
"""Name of the service, unless OTEL_SERVICE_NAME or OTEL_RESOURCE_ATTRIBUTES gives another."""

SPAN_NAME = "pointsman.route"

TRACES_PATH = "/v1/traces"

SEND_S = 5.0
"""Time limit of one batch, in seconds, further attempts included."""

FAILED = ("replica", "edge")
"""Ends of a request that are errors of the service; a client that leaves is none."""

NS = 1_000_000_000

Attribute = tuple[str, str | bool | int | float]


class SpanExport:
    """Spans that wait to be sent, and the way to the collector."""

    def __init__(self, exporter: SpanExporter, *, hash_key: str = "", edge: str = "") -> None:
        """Make it for one router.

        hash_key: key of the hash that stands for a session.
        edge: id of this edge, where edges share state.
        """
        about = {"service.name": SERVICE, "service.version": product_version()}
        resource = Resource(about | ({"service.instance.id": edge} if edge else {}))
        self._ids = _GivenIds()
        self._ended = _EndedSpans()
        provider = TracerProvider(
            sampler=ALWAYS_ON,
            resource=resource.merge(OTELResourceDetector().detect()),
            id_generator=self._ids,
            shutdown_on_exit=False,
        )
        provider.add_span_processor(self._ended)
        self._tracer = provider.get_tracer(SERVICE, product_version())
        self._exporter = exporter
        self._hash_key = hash_key.encode()

    def __len__(self) -> int:
        return len(self._ended.spans)

    def add(self, record: DecisionRecord, view: DecisionView, since_1970_s: float) -> None:
        """Make the span of a traced request that has ended.

        view: of the record, with its candidates.
        since_1970_s: what to add to the record's clock to get seconds since 1970.
        """
        trace = record.trace
        assert trace is not None
        self._ids.trace_id, self._ids.span_id = trace.trace_id, trace.span_id
        began_s = record.at_s - record.held_s
        span = self._tracer.start_span(
            SPAN_NAME,
            context=_parent(trace),
            kind=SpanKind.CLIENT,
            attributes=dict(self._attributes(record, view)),
            start_time=_ns(began_s + since_1970_s),
        )
        outcome = view.outcome
        if outcome is not UNSET:
            if outcome.ttft_ms is not UNSET:
                span.add_event("first token", timestamp=_ns(began_s + outcome.ttft_ms / 1000 + since_1970_s))
            if _failed(outcome):
                span.set_status(StatusCode.ERROR)
        span.end(_ns(max(record.ended_s, record.at_s) + since_1970_s))

    def send(self) -> tuple[int, bool]:
        """Send what waits: the number of spans, and whether they arrived. Blocks: for a thread of its own."""
        spans, self._ended.spans = self._ended.spans, []
        return len(spans), not spans or self._exporter.export(spans) is SpanExportResult.SUCCESS

    def close(self) -> None:
        """Give up a batch that is being sent, and send no more."""
        self._exporter.shutdown()

    def _attributes(self, record: DecisionRecord, view: DecisionView) -> Iterator[Attribute]:
        features = record.features
        yield "pointsman.decision.id", view.id
        yield "pointsman.reason", str(view.reason)
        if features.session:
            yield "pointsman.session.hash", self._hashed(features.session)
        if view.policy is not UNSET:
            yield "pointsman.policy", view.policy.name
            if view.policy.revision is not UNSET:
                yield "pointsman.policy.revision", view.policy.revision
        for name, value in (
            ("url.path", view.path),
            ("gen_ai.request.model", view.model),
            ("pointsman.tenant", view.tenant),
            ("pointsman.first", view.first),
            ("pointsman.second", view.second),
            ("pointsman.prefill", view.prefill),
            ("pointsman.held_ms", view.held_ms),
            ("pointsman.score", view.score),
            ("pointsman.predicted.prompt_tokens", view.prompt_tokens),
            ("pointsman.predicted.cached_tokens", view.resident_tokens),
        ):
            if value is not UNSET:
                yield name, value
        if view.candidates is not UNSET and view.candidates and view.first is not UNSET:
            terms = view.candidates[0].terms
            for name, term in terms.items() if terms is not UNSET else ():
                yield f"pointsman.terms.{name}", term
        if view.outcome is not UNSET:
            yield from _outcome_attributes(view.outcome)

    def _hashed(self, session: str) -> str:
        text = session.encode("utf-8", "surrogateescape")
        return hashlib.blake2b(text, digest_size=HASH_BYTES, key=self._hash_key).hexdigest()


def _outcome_attributes(outcome: DecisionOutcome) -> Iterator[Attribute]:
    for name, value in (
        ("pointsman.replica", outcome.replica),
        ("http.response.status_code", outcome.status),
        ("pointsman.ttft_ms", outcome.ttft_ms),
        ("pointsman.retries", outcome.retries),
        ("pointsman.ended", outcome.ended),
        ("pointsman.prefill.cached_tokens", outcome.prefill_cached),
        ("gen_ai.usage.input_tokens", outcome.prompt_tokens),
        ("gen_ai.usage.cache_read.input_tokens", outcome.actual_cached),
        ("gen_ai.usage.output_tokens", outcome.output_tokens),
    ):
        if value is not UNSET:
            yield name, value


def _failed(outcome: DecisionOutcome) -> bool:
    return outcome.ended in FAILED or (outcome.status is not UNSET and outcome.status >= 500)


def _parent(trace: TraceContext) -> Context:
    if not trace.parent_id:
        return Context()
    parent = SpanContext(trace.trace_id, trace.parent_id, is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED))
    return set_span_in_context(NonRecordingSpan(parent), Context())


def _ns(seconds: float) -> int:
    return round(seconds * NS)


class _GivenIds(IdGenerator):
    """Ids that were drawn before."""

    trace_id = 0
    span_id = 0

    def generate_trace_id(self) -> int:
        return self.trace_id

    def generate_span_id(self) -> int:
        return self.span_id


class _EndedSpans(SpanProcessor):
    """Keeps spans until they are sent; as many as one look at ended decisions yields."""

    def __init__(self) -> None:
        self.spans: list[ReadableSpan] = []

    def on_end(self, span: ReadableSpan) -> None:
        self.spans.append(span)


def otlp_exporter(endpoint: str) -> SpanExporter:
    """Make the exporter to a collector.

    endpoint: its URL; the path of traces is added to one without a path. Headers, certificates and compression are read
    from OpenTelemetry's own environment variables.
    """
    # What it would log at each attempt is said once, by whoever sends.
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
    bare = endpoint.partition("://")[2].partition("/")[2] == ""
    return OTLPSpanExporter(endpoint=endpoint.rstrip("/") + TRACES_PATH if bare else endpoint, timeout=SEND_S)
