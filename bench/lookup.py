"""Latency and cost of a lookup at 2,000 a second.

Three measurements, all open loop with Poisson arrivals, the router pinned to one core:

- the router alone, asked over SPOP exactly as HAProxy asks it, with the ring's lines coming in beside: latency, and CPU
  of the router process per lookup, everything included; by session alone, and by KV with the prefix keys of a prompt;
- a stub replica asked directly, through the edge on a path that is not routed, and through the edge with the lookup,
  in interleaved slices: what the edge adds, and what of that is the lookup.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import sys
import tempfile
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import yaml

from bench import stub
from bench.budgets import HELD_TO, held_to
from bench.cpu import ProcessTree, used_s
from bench.edge import PATH, SESSIONS, session_requests
from bench.http import chat_body
from bench.load import quantile
from bench.pace import HTTPTarget, connect, drive, poisson
from bench.peers import Side, Spawned, edge, find_compiled, installed_only, say, stub_replicas, until
from bench.report import Table, spread
from bench.spop_load import SPOPTarget
from pointsman.up.ports import pick_ports

REPLICAS = 8
KEYS = {"consistent_hash": 0, "kv_cost": 64}
"""Policies that are asked, and with how many prefix keys: 64 name a prompt of some 80 KB."""
UNROUTED_PATH = "/bench/unrouted"
BODY_BYTES = 2048
SHARES = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999}

DIRECT, EDGE_ONLY, WITH_LOOKUP = "replica, directly", "through HAProxy, not routed", "through HAProxy, routed"

T = TypeVar("T")


@dataclass(frozen=True)
class LookupOptions:
    """Rate, slices and rounds that are measured."""

    per_s: float = 2000.0
    slice_s: float = 5.0
    rounds: int = 3
    compiled: bool = False
    """Whether routers of what `make compiled` installs are asked as well."""

    @classmethod
    def quick(cls) -> LookupOptions:
        return cls(slice_s=1.0, rounds=1)


@dataclass(frozen=True)
class Latencies:
    """One slice: quantiles in milliseconds, and how late the generator itself sent."""

    target: str
    count: int
    ms: dict[str, float]
    sent_late_p99_ms: float
    cpu_us: float = 0.0
    """Of the router, per lookup; only where it was asked alone."""


@dataclass(frozen=True)
class LoneRouter:
    """A router without HAProxy."""

    process: Spawned
    spop_port: int
    ring_port: int
    admin_port: int


@contextlib.asynccontextmanager
async def lone_router(
    policy: str, python: str, log_dir: Path, *, name: str = "", more: Mapping[str, Any] | None = None
) -> AsyncIterator[LoneRouter]:
    """A router with `REPLICAS` replicas that it takes at their word.

    name: tells routers of one policy apart.
    more: further settings.
    """
    spop, lookup, ring, admin = pick_ports(4)
    named = f"{policy}-{name}" if name else policy
    settings = {
        "spop": {"port": spop},
        "lookup": {"port": lookup},
        "ring": {"port": ring},
        "admin": {"port": admin},
        "replicas": [{"id": f"replica-{n}", "url": f"http://127.0.0.1:{9 + n}"} for n in range(1, REPLICAS + 1)],
        "policy": {"policy": policy},
        **(more or {}),
    }
    config = log_dir / f"{named}.yaml"
    config.write_text(yaml.safe_dump(settings))
    argv = [python, "-m", "pointsman", "router", "--config", str(config)]
    process = Spawned(f"router-{named}", argv, log_dir, speaks=False, environment=installed_only(python))

    async def listens() -> bool:
        with contextlib.suppress(OSError):
            for port in (spop, ring, admin):  # the admin front is the last to listen
                connect(port).close()
            return True
        return False

    try:
        await until(listens, "the router", process)
        yield LoneRouter(process, spop, ring, admin)
    finally:
        await process.stop()


def pin(pid: int, cores: set[int]) -> None:
    """Keep every thread of a process on these cores."""
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(ProcessLookupError):
            os.sched_setaffinity(int(thread.name), cores)


def split_cores() -> tuple[set[int], set[int]]:
    """One core for the router, the others for the load; both the same where there is one."""
    cores = sorted(os.sched_getaffinity(0))
    return {cores[-1]}, set(cores[:-1]) or {cores[-1]}


async def on_cores(cores: set[int], work: Callable[[], T]) -> T:
    """Run `work` in a thread kept on these cores."""

    def pinned() -> T:
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, cores)  # 0: this thread
        try:
            return work()
        finally:
            os.sched_setaffinity(0, before)

    return await asyncio.to_thread(pinned)


def summarise(target: str, latencies_s: list[float], late_s: list[float], cpu_us: float = 0.0) -> Latencies:
    ms = {name: quantile(latencies_s, share) * 1000 for name, share in SHARES.items()}
    return Latencies(target, len(latencies_s), ms, quantile(late_s, 0.99) * 1000, cpu_us)


async def play(what: str, target: SPOPTarget | HTTPTarget, due_s: list[float]) -> Latencies:
    """One slice, sent from a thread kept off the router's core; the target is closed at its end."""
    try:
        latencies_s, late_s = await on_cores(split_cores()[1], lambda: drive(target, due_s))
    finally:
        target.close()
    return summarise(what, latencies_s, late_s)


async def ask_alone(
    router: LoneRouter, policy: str, what: str, per_s: float, seconds: float, rng: random.Random
) -> Latencies:
    """One slice of lookups at a router."""
    due_s, tree = poisson(per_s, seconds, rng), ProcessTree(router.process.pid)
    target = SPOPTarget(router.spop_port, router.ring_port, sessions=SESSIONS, keys=KEYS[policy], count=len(due_s))
    before = tree.read()
    latencies = await play(what, target, due_s)
    return replace(latencies, cpu_us=sum(used_s(before, tree.read()).values()) / len(due_s) * 1e6)


async def measure_router(
    policy: str, python: str, options: LookupOptions, folder: Path, rng: random.Random
) -> list[Latencies]:
    """Slices of lookups at a router alone, run by that Python."""
    slices = []
    async with lone_router(policy, python, folder) as router:
        pin(router.process.pid, split_cores()[0])
        await ask_alone(router, policy, policy, options.per_s, 0.5, rng)  # warms up
        for turn in range(options.rounds):
            slices.append(await ask_alone(router, policy, policy, options.per_s, options.slice_s, rng))
            say(f"lookup: {policy} alone, slice {turn + 1} of {options.rounds}")
    return slices


async def measure_edge(options: LookupOptions, folder: Path, rng: random.Random) -> dict[str, list[Latencies]]:
    """Interleaved slices of the three ways to a replica."""
    body = chat_body(BODY_BYTES)
    slices: dict[str, list[Latencies]] = defaultdict(list)
    async with (
        stub_replicas(4, 20.0, folder) as urls,
        edge("edge", folder, policy="consistent_hash", replicas=urls) as side,
    ):
        pin(router_of(side), split_cores()[0])
        ways = {
            DIRECT: (int(urls[0].rpartition(":")[2]), UNROUTED_PATH),
            EDGE_ONLY: (side.port, UNROUTED_PATH),
            WITH_LOOKUP: (side.port, PATH),
        }
        for turn in range(options.rounds + 1):
            for way, (port, path) in ways.items():
                due_s = poisson(options.per_s, options.slice_s if turn else 0.5, rng)
                target = HTTPTarget(port, session_requests([body], path), len(stub.ANSWER))
                latencies = await play(way, target, due_s)
                if turn:
                    slices[way].append(latencies)
            if turn:
                say(f"lookup: through HAProxy, round {turn} of {options.rounds}")
    return slices


def router_of(side: Side) -> int:
    """The process id of an edge's router."""
    return next(pid for pid, part in side.processes.read().part.items() if part == "router")


def lookup_tables(
    alone: dict[tuple[str, str], list[Latencies]], ways: dict[str, list[Latencies]], options: LookupOptions
) -> list[Table]:
    """Routers alone, beside their budgets; then the three ways through and round an edge."""
    rows = []
    for (policy, build), slices in alone.items():
        named = f"{policy}, {KEYS[policy]} prefix keys" if KEYS[policy] else policy
        named += build
        rows += [
            held_to(f"{named}: {name}, ms", [one.ms[name] for one in slices], 3, f"lookup.{name}") for name in SHARES
        ]
        rows.append(held_to(f"{named}: router CPU per lookup, us", [one.cpu_us for one in slices], 1, "lookup.cpu"))
        rows.append(held_to(f"{named}: sent late, p99, ms", [one.sent_late_p99_ms for one in slices], 3))
    through = [[way, *(spread([one.ms[name] for one in slices], 2) for name in SHARES)] for way, slices in ways.items()]
    for label, more, less in (
        ("added by the edge, lookup included", WITH_LOOKUP, DIRECT),
        ("of which the lookup, as HAProxy sees it", WITH_LOOKUP, EDGE_ONLY),
    ):
        cells = []
        for name in SHARES:
            added = [a.ms[name] - b.ms[name] for a, b in zip(ways[more], ways[less], strict=True)]
            cells.append(spread(added, 2))
        through.append([label, *cells])
    return [
        Table(
            f"Lookups over SPOP at {options.per_s:.0f} a second, router on one core, {REPLICAS} replicas",
            HELD_TO,
            rows,
            [
                f"{options.rounds} slices of {options.slice_s:g} s, Poisson arrivals; latency from when one was due",
                "CPU: SPOP, decision and the ring's line of the request's end",
                "sent late: by the load generator itself; where it is not far below p99, the machine was too busy",
            ],
        ),
        Table(
            f"Requests at {options.per_s:.0f} a second, 2 KB bodies, milliseconds",
            ["way", *SHARES],
            through,
            ["the last two rows are differences of quantiles of slices of one round"],
        ),
    ]


async def run_lookup(options: LookupOptions) -> tuple[list[Table], dict[str, Any]]:
    """The whole bench. Raises PeerError or LoadError."""
    rng = random.Random(2000)
    builds = {"": sys.executable} | ({", compiled": find_compiled()} if options.compiled else {})
    with tempfile.TemporaryDirectory(prefix="pointsman-bench-") as folder:
        alone = {
            (policy, build): await measure_router(policy, python, options, Path(folder), rng)
            for policy in KEYS
            for build, python in builds.items()
        }
        ways = await measure_edge(options, Path(folder), rng)
    figures = {
        "options": asdict(options),
        "router": {policy + build: [asdict(one) for one in slices] for (policy, build), slices in alone.items()},
        "ways": {way: [asdict(one) for one in slices] for way, slices in ways.items()},
    }
    return lookup_tables(alone, ways, options), figures
