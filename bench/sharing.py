"""What sharing state costs and gives: `python -m bench.sharing [--json] [replay] [cost] [newcomer] [soak]`.

- `replay`: one agentic trace in virtual time through one, two and four edges with real pipelines and the real protocol
  between them (a batch every 5 ms, heard 5 ms later; each engine tells one edge alone). Hit rate, imbalance, and how
  often a session's next turn goes where its last one went.
- `cost`: two routers and a real Valkey; one decides at a steady rate, both follow. Commands and bytes a request, CPU of
  both routers together beyond what the same decisions take with nothing shared, and what noting things down adds to one
  decision.
- `newcomer`: an edge joins another that has a million prefix keys: seconds until nothing is missing.
- `soak`: unique prompts and unique sessions as fast as asked for; memory of Valkey and of the process, halfway and at
  the end.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from redis.asyncio import Redis

from bench.shared_fleet import RecordedFleet, SharedFleet
from pointsman.valkey import valkey_argv, valkey_socket, valkey_url
from policies.types import RequestFeatures
from router.app import Router
from router.logs import configure
from router.prefix_keys import BOUNDARIES
from router.settings import load_settings
from router.state.schema import EngineEvents, Registration
from simulator.experiment import Pace
from simulator.generate import WORKLOADS, generate
from simulator.settings import FleetSettings

REPLICAS = 8
CHAIN = 32
"""Keys of a prompt: 64 KB, as agents' are."""

OTHER_DICE = 1000
"""Added to the seed of the routers' dice, not to the trace's."""

YIELD_EVERY = 8
"""Requests decided before the routers' own loops get their turn."""


def replay(sessions: int, seeds: int, load: float) -> list[dict[str, Any]]:
    """Each seed's trace through one edge and through several: means, and what several change in the same trace."""
    alone: dict[int, tuple[float, float]] = {}
    rows = []
    # One edge with other dice: what changes by itself, where nothing is shared.
    for edges, dice in ((1, 0), (1, OTHER_DICE), (2, 0), (4, 0)):
        runs, changes = [], []
        for seed in range(1, seeds + 1):
            settings = FleetSettings(replicas=REPLICAS, routers=edges, sync_s=None)
            trace = Pace(load=load).apply(generate(WORKLOADS["agentic"], sessions=sessions, seed=seed), settings, seed)
            fleet = (RecordedFleet if edges == 1 else SharedFleet)(
                trace, {"policy": "kv_cost"}, settings, seed=seed + dice
            )
            summary = fleet.run()
            told = fleet.told_bytes / summary.requests
            runs.append((summary.hit_rate, summary.imbalance, summary.ttft_ms.mean, fleet.stayed, told))
            hit, imbalance = alone.setdefault(seed, (summary.hit_rate, summary.imbalance))
            changes.append((summary.hit_rate - hit, summary.imbalance / imbalance - 1))
        names = ("hit_rate", "imbalance", "ttft_ms", "stayed", "told_bytes")
        row: dict[str, Any] = dict(zip(names, map(statistics.fmean, zip(*runs, strict=True)), strict=True))
        for name, column in zip(("hit_rate_change", "imbalance_change"), zip(*changes, strict=True), strict=True):
            row[name] = [round(change, 4) for change in column]
            row[f"{name}_mean"] = statistics.fmean(column)
            row[f"{name}_error"] = statistics.stdev(column) / len(column) ** 0.5 if len(column) > 1 else None
        rows.append({"edges": edges, "other_dice": bool(dice), **row})
    return rows


@asynccontextmanager
async def valkey() -> AsyncIterator[tuple[str, Redis]]:
    with tempfile.TemporaryDirectory(prefix="pm-") as folder:
        process = await asyncio.create_subprocess_exec(*valkey_argv(Path(folder)), stdout=asyncio.subprocess.DEVNULL)
        client = Redis(unix_socket_path=str(valkey_socket(Path(folder))))
        try:
            # Processes start without telling.
            while not valkey_socket(Path(folder)).exists():  # noqa: ASYNC110
                await asyncio.sleep(0.02)
            yield valkey_url(Path(folder)), client
        finally:
            await client.aclose()
            process.kill()
            await process.wait()


@asynccontextmanager
async def router(url: str, **shared: Any) -> AsyncIterator[Router]:
    zero = {"port": 0}
    overrides = {
        "spop": zero,
        "ring": zero,
        "lookup": zero,
        "admin": zero,
        "policy": {"policy": "kv_cost"},
        "scrape": {"enabled": False},
    }
    settings = load_settings(environment={}, overrides={**overrides, "shared": {"url": url, **shared}})
    async with Router(settings).running() as made:
        yield made


def equip(made: Router) -> None:
    """Replicas that tell this router what they hold."""
    for number in range(REPLICAS):
        name, now_s = f"r{number}", made.clock()
        made.replicas.put(name, Registration(url=f"http://127.0.0.1:{number + 1}"), ("127.0.0.1", number + 1), now_s)
        replica = made.replicas.get(name)
        assert replica is not None
        made.kv.apply(replica.slot, EngineEvents(epoch="e", seq=0, snapshot=True, capacity_tokens=500_000), now_s)


class Talkers:
    """Conversations that grow by two keys a turn; each request ends `flight` requests later."""

    def __init__(self, made: Router, *, unique: bool = False, flight: int = 64) -> None:
        self._router = made
        self._rng = random.Random(1)
        self._unique = unique
        self._flight = flight
        self._chains: dict[int, list[int]] = {}
        self._open: list[tuple[str, str, tuple[int, ...]]] = []
        self._seqs: dict[str, int] = {}
        self.count = 0
        self.decide_s: list[float] = []

    def one(self) -> None:
        made, number = self._router, self.count
        self.count += 1
        talk = number if self._unique else self._rng.randrange(256)
        chain = self._chains.get(talk, [])
        if len(chain) >= CHAIN or not chain:
            chain = [self._rng.getrandbits(64) for _ in range(CHAIN if self._unique else 8)]
        else:
            chain = chain + [self._rng.getrandbits(64) for _ in range(2)]
        if not self._unique:
            self._chains[talk] = chain
        features = RequestFeatures(
            request_id=f"q{number}", session=f"s{talk}", body_bytes=BOUNDARIES[len(chain) - 1] + 100,
            prefix_keys=tuple(chain), max_tokens=64,
        )  # fmt: skip
        started_s = time.perf_counter()
        decision = made.pipeline.decide(features, made.clock())
        self.decide_s.append(time.perf_counter() - started_s)
        self._open.append((features.request_id, decision.first, features.prefix_keys))
        if len(self._open) > self._flight:
            self.end(*self._open.pop(0))

    def end(self, request_id: str, name: str, keys: tuple[int, ...]) -> None:
        made = self._router
        made.load.release(request_id)
        made.kv.ended(request_id, made.clock())
        seq = self._seqs[name] = self._seqs.get(name, 0) + 1
        replica = made.replicas.get(name)
        assert replica is not None
        evicted = list(keys) if self._unique else []
        events = EngineEvents(epoch="e", seq=seq, stored=list(keys[-2:]), evicted=evicted)
        made.kv.apply(replica.slot, events, made.clock())

    async def run(self, rate: float, seconds: float) -> None:
        started_s, before = time.perf_counter(), self.count
        while (passed_s := time.perf_counter() - started_s) < seconds:
            while self.count - before < rate * passed_s:
                self.one()
                if self.count % YIELD_EVERY == 0:
                    await asyncio.sleep(0)  # on a busy machine it is always late, and routers would do nothing else
            await asyncio.sleep(0.002)


async def in_step(*routers: Router) -> None:
    def met(made: Router) -> bool:
        assert made.sharing is not None
        member = made.sharing.member
        return made.sharing.cause is None and member.in_step and len(member.peers.alive) == len(routers) - 1

    while not all(map(met, routers)):  # noqa: ASYNC110
        await asyncio.sleep(0.01)


async def cost(rate: float, seconds: float) -> dict[str, Any]:
    async def cpu_s(talkers: Talkers) -> float:
        before = time.process_time()
        await talkers.run(rate, seconds)
        return time.process_time() - before

    async with router("") as alone:
        equip(alone)
        talkers = Talkers(alone)
        await talkers.run(rate, 2)
        alone_s, alone_us = await cpu_s(talkers), 1e6 * statistics.median(talkers.decide_s)
    async with valkey() as (url, client), router(url) as one, router(url) as two:
        equip(one)
        await in_step(one, two)
        idle = time.process_time()
        await asyncio.sleep(3)
        idle_share = (time.process_time() - idle) / 3
        talkers = Talkers(one)
        await talkers.run(rate, 2)
        stats, info = await client.info("commandstats"), await client.info("stats")
        requests = talkers.count
        shared_s, shared_us = await cpu_s(talkers), 1e6 * statistics.median(talkers.decide_s)
        requests = talkers.count - requests
        after, info_after = await client.info("commandstats"), await client.info("stats")
        calls = {
            name.removeprefix("cmdstat_"): entry["calls"] - stats.get(name, {"calls": 0})["calls"]
            for name, entry in after.items()
        }
        calls.pop("info", None)
        sent = info_after["total_net_input_bytes"] - info["total_net_input_bytes"]
        read = info_after["total_net_output_bytes"] - info["total_net_output_bytes"]
    return {
        "rate": rate,
        "decided_per_s": requests / seconds,
        "commands_per_request": sum(calls.values()) / requests,
        "bytes_in_per_request": sent / requests,
        "bytes_out_per_request": read / requests,
        "cpu_ms_per_s_idle_both": 1000 * idle_share,
        "cpu_ms_per_s_both": 1000 * (shared_s - alone_s) / seconds,
        "decide_us_alone": alone_us,
        "decide_us_shared": shared_us,
        "calls": {name: count for name, count in calls.items() if count},
    }


async def newcomer(keys: int) -> dict[str, Any]:
    async with valkey() as (url, client), router(url) as one:
        equip(one)
        rng = random.Random(1)
        for slot in range(REPLICAS):
            for _ in range(keys // REPLICAS):
                one.kv.index.stored(slot, rng.getrandbits(64))
        # Older than what the stream reaches back to.
        assert one.sharing is not None
        one.sharing.member.seq += 1
        longest_s = 0.0
        stop = asyncio.Event()

        async def feel() -> None:
            nonlocal longest_s
            while not stop.is_set():
                before_s = time.perf_counter()
                await asyncio.sleep(0)
                longest_s = max(longest_s, time.perf_counter() - before_s)
                await asyncio.sleep(0.0005)

        started_s = time.perf_counter()
        async with router(url) as two:
            feeling = asyncio.create_task(feel())
            await in_step(one, two)
            took_s = time.perf_counter() - started_s
            stop.set()
            await feeling
            assert len(two.kv.index) == len(one.kv.index), (len(two.kv.index), len(one.kv.index))
            used_mb = (await client.info("memory"))["used_memory_peak"] / 1e6
    return {"keys": keys, "seconds": took_s, "longest_pause_ms": 1000 * longest_s, "valkey_peak_mb": used_mb}


def resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6


async def soak(rate: float, seconds: float) -> dict[str, Any]:
    marks = []
    async with valkey() as (url, client), router(url, stream_mb=4) as one, router(url, stream_mb=4) as two:
        equip(one)
        await in_step(one, two)
        talkers = Talkers(one, unique=True)
        for _ in range(4):
            await talkers.run(rate, seconds / 4)
            talkers.decide_s.clear()
            used = (await client.info("memory"))["used_memory"] / 1e6
            rss = resident_mb()
            marks.append({"requests": talkers.count, "valkey_mb": round(used, 1), "routers_rss_mb": round(rss, 1)})
    return {"rate": rate, "quarters": marks}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.sharing", description=__doc__.split("\n\n")[0])
    parser.add_argument("parts", nargs="*", default=["replay", "cost", "newcomer", "soak"])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--sessions", type=int, default=150)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--load", type=float, default=0.7, help="Of the knee.")
    parser.add_argument("--rate", type=float, default=1000.0, help="Requests a second.")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--soak-seconds", type=float, default=120.0)
    parser.add_argument("--keys", type=int, default=1_000_000)
    options = parser.parse_args(argv)
    configure(level="error")  # the replicas of a bench are not there, and routers say so
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    found: dict[str, Any] = {"machine": machine}
    if "replay" in options.parts:
        found["replay"] = replay(options.sessions, options.seeds, options.load)
    if "cost" in options.parts:
        found["cost"] = asyncio.run(cost(options.rate, options.seconds))
    if "newcomer" in options.parts:
        found["newcomer"] = asyncio.run(newcomer(options.keys))
    if "soak" in options.parts:
        found["soak"] = asyncio.run(soak(options.rate, options.soak_seconds))
    print(json.dumps(found, indent=None if options.json else 1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
