"""Price of keys and limits: what a lookup and its end cost a router's process, in one process and without sockets.

Routers are built as `pointsman router` builds them and fed with HAProxy's frames and lines, one after the other in
turns, so that what else the machine does hits all of them. Each request is looked up, its engine reports it, and
HAProxy's line ends it.
"""

from __future__ import annotations

import asyncio
import gc
import time
from dataclasses import asdict, dataclass
from typing import Any, cast

import msgspec
import psutil

from bench import spop_load
from bench.report import Table, median, spread
from pointsman.contract.events import EngineEvents, Finished, FirstToken
from pointsman.contract.registration import Registration
from pointsman.haproxy.spop.frames import LENGTH_BYTES
from pointsman.router.app import Router
from pointsman.router.settings import load_settings
from pointsman.router.tenancy.records import ApiKey

KEYS = {"consistent_hash": 0, "kv_cost": 64}
REPLICAS = 8
BATCH = 500
SESSIONS = 200
MANY_KEYS = 10_000
LIMITS = {"tokens_per_minute": 10**10, "requests_per_minute": 10**7}


@dataclass(frozen=True)
class TenancyOptions:
    """Length of the bench."""

    rounds: int = 40

    @classmethod
    def quick(cls) -> TenancyOptions:
        return cls(rounds=12)


@dataclass(frozen=True)
class Way:
    """One way to share a fleet."""

    name: str
    tenant: str = ""
    key: str = ""
    limits: bool = False
    keys: int = 0


WAYS = (
    Way("no keys"),
    Way("no keys, again"),
    Way("keys", tenant="acme", key="k" * 12, keys=1),
    Way("keys and limits", tenant="acme", key="k" * 12, limits=True, keys=1),
    Way("keys and limits, 10,000 keys", tenant="acme", key="k" * 12, limits=True, keys=MANY_KEYS),
)


class Sink(asyncio.Transport):
    """A transport that keeps nothing."""

    def write(self, data: Any) -> None:
        pass

    def is_closing(self) -> bool:
        return False

    def close(self) -> None:
        pass


class Fed:
    """A router that is fed without sockets."""

    def __init__(self, way: Way, policy: str) -> None:
        self.way = way
        before = _rss_mb()
        settings = load_settings(
            environment={}, overrides={"seed": 1, "policy": {"policy": policy}, "scrape": {"enabled": False}}
        )
        self.router = Router(settings)
        self.core = self.router.core
        for number in range(REPLICAS):
            self.core.replicas.put(f"replica-{number}", Registration(url="http://h:1"), ("127.0.0.1", 1), 0.0)
        for number in range(way.keys):
            key_id = way.key if number == 0 else f"{number:012d}"
            key = ApiKey(id=key_id, tenant=way.tenant, hash=f"{number:064x}", created_s=0.0)
            self.core.book.write(f"key/{key_id}", msgspec.to_builtins(key))
        if way.limits:
            self.core.book.write(f"tenant/{way.tenant}", {"name": way.tenant, "limits": LIMITS})
        self.built_mb = _rss_mb() - before
        self.spop, self.ring = self.router._spop_protocol(), self.router._ring_protocol()
        for protocol in (self.spop, self.ring):
            protocol.connection_made(cast(asyncio.BaseTransport, Sink()))
        self.spop.data_received(spop_load.hello())
        self.digests = [
            spop_load.digest(spop_load.prefix_keys(n, KEYS[policy]), spop_load.BODY_BYTES) if KEYS[policy] else b""
            for n in range(SESSIONS)
        ]
        self.number = 0

    def batch(self) -> tuple[float, float]:
        """Microseconds of a lookup, and of all that follows it, each by the process's CPU time."""
        way, first = self.way, self.number
        self.number += BATCH
        numbers = range(first, self.number)
        more = {"tenant": way.tenant or None, **({"key": way.key} if way.key else {})}
        frames = [
            spop_load.notify(n, f"session-{n % SESSIONS:04d}", self.digests[n % SESSIONS], **more) for n in numbers
        ]
        assert all(len(frame) > LENGTH_BYTES for frame in frames)
        ids = [spop_load.request_id(n) for n in numbers]
        clock = time.process_time_ns
        began = clock()
        for frame in frames:
            self.spop.data_received(frame)
        looked_up = clock() - began
        slots = [request.slot for request in map(self.core.requests.get, ids) if request is not None]
        names = [self.core.replicas.ids[slot] for slot in slots]
        assert len(names) == BATCH, "each request is placed"
        told: dict[str, tuple[list[FirstToken], list[Finished]]] = {}
        for request_id, name in zip(ids, names, strict=True):
            firsts, finished = told.setdefault(name, ([], []))
            firsts.append(FirstToken(request_id, 16_000, 8_000, 10.0))
            finished.append(Finished(request_id, 16_000, 64, 100.0, "stop"))
        events = {
            name: EngineEvents(epoch="e", seq=first, first=some[0], finished=some[1]) for name, some in told.items()
        }
        lines = [spop_load.end_line(n, name) for n, name in zip(numbers, names, strict=True)]
        began = clock()
        for name, message in events.items():
            self.core.engine_events(name, message, self.router.clock())
        for line in lines:
            self.ring.data_received(line)
        followed = clock() - began
        self.core.sweep(self.router.clock())
        return looked_up / BATCH / 1000, followed / BATCH / 1000


def _rss_mb() -> float:
    gc.collect()
    return psutil.Process().memory_info().rss / 1e6


def measure(policy: str, options: TenancyOptions) -> dict[str, dict[str, Any]]:
    """Figures by way, interleaved."""
    routers = [Fed(way, policy) for way in WAYS]
    for router in routers:
        router.batch()
    gc.collect()
    gc.freeze()
    lookups: dict[str, list[float]] = {way.name: [] for way in WAYS}
    ends: dict[str, list[float]] = {way.name: [] for way in WAYS}
    for _ in range(options.rounds):
        for router in routers:
            looked_up, followed = router.batch()
            lookups[router.way.name].append(looked_up)
            ends[router.way.name].append(followed)
    gc.unfreeze()
    return {
        router.way.name: {
            "lookup_us": lookups[router.way.name],
            "end_us": ends[router.way.name],
            "built_mb": router.built_mb,
        }
        for router in routers
    }


def table(policy: str, figures: dict[str, dict[str, Any]], options: TenancyOptions) -> Table:
    """Costs by way."""
    rows = []
    wholes = {
        name: [a + b for a, b in zip(one["lookup_us"], one["end_us"], strict=True)] for name, one in figures.items()
    }
    for name, one in figures.items():
        added = [mine - first for mine, first in zip(wholes[name], wholes[WAYS[0].name], strict=True)]
        rows.append(
            [
                name,
                spread(one["lookup_us"], 1),
                spread(one["end_us"], 1),
                f"{median(added):+.1f}",
                f"{one['built_mb']:.1f}",
            ]
        )
    return Table(
        f"{policy}: what keys and limits cost a router, {REPLICAS} replicas",
        ["way", "lookup, us", "report and end, us", "added, us", "router with its keys, MB"],
        rows,
        [f"{options.rounds} rounds of {BATCH} requests a way, interleaved; CPU time of the process, no sockets"],
    )


async def run_tenancy(options: TenancyOptions) -> tuple[list[Table], dict[str, Any]]:
    """The whole bench."""
    found = {policy: measure(policy, options) for policy in KEYS}
    figures = {"options": asdict(options), "ways": found}
    return [table(policy, some, options) for policy, some in found.items()], figures
