"""The bench of size: thousands of streams, and a thousand replicas.

Streams (`bench.scale_streams`): memory of the edge at 1,000, 5,000 and 9,800 open streams, beside vllm-router. Replicas
(`bench.scale_fleet`): an idle edge and a lightly loaded one with 4, 200 and 1,000 replicas behind it.

The most streams need 24,000 file descriptors a process; numbers that the limit does not allow are left out, and said.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.budgets import verdict
from bench.edge import OURS
from bench.report import Table
from bench.scale_fleet import CONNECTIONS, FleetFigures, FleetOptions, figures_of, measure_fleet
from bench.scale_streams import (
    POLICY,
    StreamFigures,
    StreamOptions,
    as_figures,
    descriptors,
    measure_streams,
    within_limits,
)

STREAM_BASE_MB = 256.0
STREAM_KB = 20.0
"""HAProxy's memory budget: so much, and so much a stream."""


@dataclass(frozen=True)
class ScaleOptions:
    """Which halves are measured, and how much of each."""

    streams: StreamOptions | None = field(default_factory=StreamOptions)
    fleets: FleetOptions | None = field(default_factory=FleetOptions)

    @classmethod
    def quick(cls) -> ScaleOptions:
        return cls(StreamOptions.quick(), FleetOptions.quick())


def allowed_mb(streams: int) -> float:
    """Return HAProxy's memory budget with so many streams, in megabytes."""
    return STREAM_BASE_MB + streams * STREAM_KB / 1024


def stream_table(measured: list[StreamFigures], left_out: tuple[int, ...], failures: list[str]) -> Table:
    """Memory by side, size of body and number of streams."""
    rows = []
    for one in measured:
        ours = one.side == OURS
        over_mb = one.proxy_mb - allowed_mb(one.streams)
        rows.append(
            [
                f"{one.side}, {one.body_kb} KB, {one.streams:,}",
                f"{one.proxy_mb:.0f}",
                f"{one.memory_mb['router']:.0f}" if ours else "",
                f"{one.kb_a_stream:.0f}",
                f"{one.new_p50_ms:.1f} / {one.new_p99_ms:.1f}",
                f"{allowed_mb(one.streams):.0f}" if ours else "",
                ("met" if over_mb <= 0 else f"short by {over_mb:.0f} MB") if ours else "",
            ]
        )
    notes = [f"policy {POLICY}; a token every 2 s a stream; memory of HAProxy, or of all of vllm-router, resident"]
    if left_out:
        counts = ", ".join(f"{count:,}" for count in left_out)
        notes.append(f"not measured: {counts} streams, for {descriptors():,} file descriptors are allowed")
    notes += [f"not measured, {failure}" for failure in failures]
    return Table(
        "Memory of open streams",
        ["side, body, streams", "MB", "router MB", "KB a stream", "new request p50 / p99 ms", "budget MB", "verdict"],
        rows,
        notes,
    )


def idle_table(measured: list[FleetFigures]) -> Table:
    """The edge at rest."""
    rows = [
        [
            one.fleet,
            f"{one.router_idle * 100:.1f}",
            f"{one.haproxy_idle * 100:.1f}",
            f"{one.router_wakeups_per_s:.0f} / {one.haproxy_wakeups_per_s:.0f}",
            f"{one.hold_idle_ms:.1f}",
            f"{one.hold_metrics_ms:.1f}",
            f"{one.metrics_ms:.0f} / {one.metrics_bytes / 1000:.0f}",
            f"{one.router_mb:.0f} / {one.haproxy_mb:.0f}",
            verdict("scale.router", one.router_idle * 100)
            if one.count > SMALL_FLEET
            else verdict("scale.idle", (one.router_idle + one.haproxy_idle) * 1000),
        ]
        for one in measured
    ]
    return Table(
        "An idle edge, by the size of its fleet",
        [
            "fleet",
            "router % of a core",
            "HAProxy %",
            "wake-ups/s",
            "probe waits ms",
            "beside /metrics ms",
            "/metrics ms / KB",
            "MB router / HAProxy",
            "verdict",
        ],
        rows,
        ["probe: the worst wait of a GET /livez in half a second, or while /metrics is read; the median of those"],
    )


SMALL_FLEET = 50
"""Up to here the fixed cost of an edge is judged, beyond it what the fleet costs."""


def load_table(measured: list[FleetFigures]) -> Table:
    """The edge with a few requests at a time."""
    rows = [
        [
            one.fleet,
            f"{one.requests:,}",
            str(one.failed),
            str(one.fail_open),
            f"{one.p50_ms:.1f} / {one.p99_ms:.1f} / {one.max_ms:.1f}",
            verdict("scale.p99", one.p99_ms),
            verdict("scale.fail_open", one.fail_open),
        ]
        for one in measured
    ]
    return Table(
        f"Requests in a closed loop of {CONNECTIONS}, by the size of the fleet",
        ["fleet", "requests", "failed", "fail open", "p50 / p99 / max ms", "p99", "fail open"],
        rows,
    )


async def run_scale(options: ScaleOptions) -> tuple[list[Table], dict[str, Any]]:
    """The whole bench. Raises PeerError."""
    tables: list[Table] = []
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="pointsman-bench-") as name:
        folder = Path(name)
        if options.fleets is not None:
            measured = []
            for number, fleet in enumerate(options.fleets.fleets):
                logs = folder / str(number)
                logs.mkdir()
                measured.append(await measure_fleet(fleet, options.fleets, logs))
            tables += [idle_table(measured), load_table(measured)]
            figures["fleets"] = figures_of(measured)
        if options.streams is not None:
            streams, failures = await measure_streams(options.streams, folder)
            wanted = options.streams.streams
            left_out = tuple(sorted(set(wanted) - set(within_limits(wanted, descriptors()))))
            tables.append(stream_table(streams, left_out, failures))
            figures["streams"] = as_figures(streams)
            figures["failures"] = failures
    return tables, figures
