"""Settings of tracing, and whether the packages that it needs are installed."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Annotated

import msgspec

EXTRA = "no endpoint, or OpenTelemetry's SDK, which is the extra otel: pip install 'pointsman[otel]'"
"""Expectation where an endpoint is set and the extra is not installed."""


class TracingSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A span for each traced request, sent over OTLP; see [how to trace requests](how-to-trace.md)."""

    endpoint: Annotated[str, msgspec.Meta(pattern=r"^(|https?://[^/\s]+(/\S*)?)$", max_length=1024)] = ""
    """URL of a collector that takes OTLP over HTTP, `http://HOST:4318`; `/v1/traces` is added where it has no path.
    Needs the extra `pointsman[otel]`, and `tracing: true` in HAProxy's file. Empty: no request is traced."""
    sample: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.01
    """Share of the requests without a `traceparent` that are traced, 0 to 1. A request with one is traced exactly when
    its client traces it."""


def has_exporter() -> bool:
    """Return whether the packages of the extra are installed; of the SDK nothing is imported."""
    try:
        return bool(find_spec("opentelemetry.sdk") and find_spec("opentelemetry.exporter.otlp.proto.http"))
    except ModuleNotFoundError:  # a package above it
        return False
