"""The cost of an edge with many replicas behind it, at rest and under a light load.

`Fleet` says how many replicas there are and of which kind: *endpoints*, plain URLs that the router scrapes, or
*engines*, which register and report themselves. Per fleet: CPU and wake-ups without a request; latencies and placement
of a closed loop; how long the router's event loop is held, seen from outside.

A hold is seen by a prober that asks `GET /livez` again and again: its answer waits as long as the loop is busy with
something else, and for a core where the machine is busy. So the worst wait of each window is taken, and of those the
median: what happens in every window is the router's, what happens in some of them may be the machine's.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from bench import stub
from bench.edge import FAIL_OPEN, OURS, measure_idle, session_requests
from bench.http import chat_body
from bench.load import ClosedLoop, Expected, Tally, quantile
from bench.peers import PeerError, Side, Spawned, edge, say, stub_replicas, until
from bench.report import median
from bench.resident import resident_mb, switches

ENDPOINTS, ENGINES = "endpoints", "engines"
POLICY = "kv_cost"
BODY_BYTES = 2048
CONNECTIONS = 16
PROBE_PAUSE_S = 0.001
WINDOW_S = 0.5
"""A round of the edge sync starts in each window of this length, while the fleet is small."""
SETTLE_S = 3.0
NAMED_S = 120.0
WARM_S = 1.0


@dataclass(frozen=True)
class Fleet:
    """Replicas behind one edge."""

    count: int
    kind: str = ENDPOINTS

    @property
    def name(self) -> str:
        return f"{self.count:,} {self.kind}"


@dataclass(frozen=True)
class FleetOptions:
    """Size of the measurement."""

    fleets: tuple[Fleet, ...] = tuple(Fleet(n, kind) for n in (4, 200, 1000) for kind in (ENDPOINTS, ENGINES))
    idle_s: float = 10.0
    load_s: float = 10.0
    pages: int = 20
    """Times that `/metrics` is read."""

    @classmethod
    def quick(cls) -> FleetOptions:
        return cls(fleets=(Fleet(4), Fleet(200)), idle_s=2.0, load_s=2.0, pages=5)


@dataclass(frozen=True)
class FleetFigures:
    """Figures of one fleet; shares are of one core."""

    fleet: str
    count: int
    router_idle: float
    haproxy_idle: float
    router_wakeups_per_s: float
    haproxy_wakeups_per_s: float
    requests: int
    failed: int
    fail_open: int
    p50_ms: float
    p99_ms: float
    max_ms: float
    hold_idle_ms: float
    """Median over windows of the worst wait of the prober, without a request."""
    hold_metrics_ms: float
    """Median over windows of the worst wait of the prober while `/metrics` is read."""
    metrics_ms: float
    metrics_bytes: int
    router_mb: float
    haproxy_mb: float


class Prober:
    """Asks `GET /livez` on one connection, again and again; keeps when it asked and how long the answer took."""

    def __init__(self, admin_url: str) -> None:
        address = urlsplit(admin_url)
        self._host, self._port = address.hostname or "127.0.0.1", address.port or 80
        self.waits: list[tuple[float, float]] = []

    async def run(self) -> None:
        """Until cancelled."""
        reader, writer = await asyncio.open_connection(self._host, self._port)
        question = f"GET /livez HTTP/1.1\r\nHost: {self._host}:{self._port}\r\n\r\n".encode()
        try:
            while True:
                asked_s = time.perf_counter()
                writer.write(question)
                await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(len(b"ok\n"))
                self.waits.append((asked_s, time.perf_counter() - asked_s))
                await asyncio.sleep(PROBE_PAUSE_S)
        finally:
            writer.close()

    def worst_s(self, begin_s: float, end_s: float) -> float:
        """The longest wait of a question that was under way in a span of time; NaN without any."""
        return max(
            (took for asked, took in self.waits if asked < end_s and asked + took > begin_s), default=float("nan")
        )


@contextlib.asynccontextmanager
async def probing(side: Side) -> AsyncIterator[Prober]:
    """A prober at work."""
    prober = Prober(side.admin_url)
    task = asyncio.create_task(prober.run())
    try:
        yield prober
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until_named(side: Side) -> None:
    """Returns once the router has read the models of every endpoint, which it does `scrape.max_per_s` at a time: until
    then it is not at rest. Raises PeerError."""
    async with httpx.AsyncClient(base_url=side.admin_url, timeout=5.0, trust_env=False) as admin:
        deadline_s = time.perf_counter() + NAMED_S
        while not all(replica["model"] for replica in (await admin.get("/v1/replicas")).json()["replicas"]):
            if time.perf_counter() > deadline_s:
                raise PeerError(f"{side.name}: not every endpoint was asked for its models within {NAMED_S:g} s")
            await asyncio.sleep(0.5)


@contextlib.asynccontextmanager
async def edge_with(fleet: Fleet, folder: Path) -> AsyncIterator[Side]:
    """An edge whose fleet is up."""
    if fleet.kind == ENDPOINTS:
        async with (
            stub_replicas(fleet.count, 20.0, folder) as urls,
            edge(OURS, folder, policy=POLICY, replicas=urls) as side,
        ):
            await until_named(side)
            yield side
        return
    async with edge(OURS, folder, policy=POLICY) as side:
        argv = [sys.executable, "-m", "bench.idle_engines", "--admin", side.admin_url, "--engines", str(fleet.count)]
        engines = Spawned("engines", argv, folder)
        try:
            await engines.line(within_s=120.0)
            async with httpx.AsyncClient(base_url=side.admin_url, timeout=5.0, trust_env=False) as admin:

                async def all_up() -> bool:
                    listed = (await admin.get("/v1/replicas")).json()["replicas"]
                    return len(listed) == fleet.count and all(replica["state"] == "up" for replica in listed)

                await until(all_up, fleet.name, engines)
            yield side
        finally:
            await engines.stop()


async def measure_load(side: Side, seconds: float) -> Tally:
    """A closed loop of `CONNECTIONS`; latencies without those of its beginning."""
    tally = Tally()
    body = chat_body(BODY_BYTES, model=stub.MODEL)
    expected = Expected(len(stub.ANSWER))
    load = ClosedLoop(side.port, session_requests([body]), expected, tally, connections=CONNECTIONS, read_names=True)
    load.start()
    await asyncio.sleep(WARM_S)
    tally.latencies_s.clear()
    await asyncio.sleep(seconds)
    await load.stop()
    return tally


async def measure_pages(side: Side, prober: Prober, pages: int) -> tuple[float, float, int]:
    """Milliseconds of `GET /metrics`, of the worst wait beside it, and bytes: medians over so many of them."""
    took_ms, waited_ms, size = [], [], 0
    async with httpx.AsyncClient(base_url=side.admin_url, timeout=10.0, trust_env=False) as admin:
        for _ in range(pages):
            await asyncio.sleep(0.1)
            began_s = time.perf_counter()
            page = await admin.get("/metrics")
            ended_s = time.perf_counter()
            if page.status_code != httpx.codes.OK:
                raise PeerError(f"{side.name}: /metrics answered {page.status_code}")
            size = len(page.content)
            await asyncio.sleep(0.05)
            took_ms.append((ended_s - began_s) * 1000)
            waited_ms.append(prober.worst_s(began_s, ended_s) * 1000)
    return median(took_ms), median(waited_ms), size


async def measure_fleet(fleet: Fleet, options: FleetOptions, folder: Path) -> FleetFigures:
    """Everything of one fleet. Raises PeerError."""
    say(f"scale: {fleet.name}")
    async with edge_with(fleet, folder) as side:
        await asyncio.sleep(SETTLE_S)
        slept, began_s = switches(side.processes), time.perf_counter()
        idle = (await measure_idle([side], options.idle_s))[side.name]
        over_s = time.perf_counter() - began_s
        wakeups = {part: (n - slept.get(part, 0)) / over_s for part, n in switches(side.processes).items()}
        async with probing(side) as prober:
            began_s = time.perf_counter()
            await asyncio.sleep(options.idle_s)
            windows = [
                prober.worst_s(began_s + number * WINDOW_S, began_s + (number + 1) * WINDOW_S)
                for number in range(int(options.idle_s / WINDOW_S))
            ]
            page_ms, hold_page_ms, page_bytes = await measure_pages(side, prober, options.pages)
        tally = await measure_load(side, options.load_s)
        memory = resident_mb(side.processes)
    return FleetFigures(
        fleet=fleet.name,
        count=fleet.count,
        router_idle=idle["router"],
        haproxy_idle=idle["haproxy"],
        router_wakeups_per_s=wakeups["router"],
        haproxy_wakeups_per_s=wakeups["haproxy"],
        requests=tally.ok,
        failed=sum(tally.failed.values()),
        fail_open=tally.reasons[FAIL_OPEN],
        p50_ms=quantile(tally.latencies_s, 0.5) * 1000,
        p99_ms=quantile(tally.latencies_s, 0.99) * 1000,
        max_ms=max(tally.latencies_s, default=float("nan")) * 1000,
        hold_idle_ms=median(windows) * 1000,
        hold_metrics_ms=hold_page_ms,
        metrics_ms=page_ms,
        metrics_bytes=page_bytes,
        router_mb=memory["router"],
        haproxy_mb=memory["haproxy"],
    )


def figures_of(measured: list[FleetFigures]) -> list[dict[str, Any]]:
    return [asdict(one) for one in measured]
