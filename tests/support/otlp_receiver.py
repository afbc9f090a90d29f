"""A collector for tests: takes OTLP over HTTP on loopback and keeps the spans."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import uvicorn
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

REACH_S = 30.0


class ReceivedSpan(NamedTuple):
    """A span as the collector got it."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    """Empty for the first of a trace."""
    seconds: float
    attributes: dict[str, Any]
    events: list[str]
    is_error: bool
    resource: dict[str, Any]


class Collector:
    """The spans that came, and the answer to the next batches."""

    def __init__(self) -> None:
        self.spans: list[ReceivedSpan] = []
        self.status = 200
        self.url = ""
        self.paths: set[str] = set()

    async def take(self, request: Request) -> Response:
        self.paths.add(request.url.path)
        batch = ExportTraceServiceRequest.FromString(await request.body())
        if self.status == 200:
            for of_resource in batch.resource_spans:
                about = _values(of_resource.resource.attributes)
                for of_scope in of_resource.scope_spans:
                    self.spans += [_received(span, about) for span in of_scope.spans]
        return Response(b"", self.status, media_type="application/x-protobuf")

    async def wait_for(self, count: int) -> list[ReceivedSpan]:
        """The spans, once so many have come."""
        async with asyncio.timeout(REACH_S):
            while len(self.spans) < count:
                await asyncio.sleep(0.02)
        return self.spans


def _received(span: Any, resource: dict[str, Any]) -> ReceivedSpan:
    return ReceivedSpan(
        name=span.name,
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        seconds=(span.end_time_unix_nano - span.start_time_unix_nano) / 1e9,
        attributes=_values(span.attributes),
        events=[event.name for event in span.events],
        is_error=span.status.code == 2,
        resource=resource,
    )


def _values(attributes: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, str(pair.value.WhichOneof("value"))) for pair in attributes}


@asynccontextmanager
async def running_collector() -> AsyncIterator[Collector]:
    """A collector on a port of its own."""
    collector = Collector()
    app = Starlette(routes=[Route("/{path:path}", collector.take, methods=["POST"])])
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_config=None, lifespan="off"))
    task = asyncio.create_task(server._serve())
    while not server.started:
        await asyncio.sleep(0)
    collector.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    try:
        yield collector
    finally:
        server.should_exit = server.force_exit = True
        await task
