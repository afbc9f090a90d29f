"""Price of looking inside: decision records, the access log, followers, an open page, a shadow policy.

Routers alone, asked over SPOP as HAProxy asks them, all started at once and asked in turn. The first keeps nothing, the
others do more. What that adds is the difference to the first, of latency the ratio, in the same round.
"""

from __future__ import annotations

import contextlib
import random
import sys
import tempfile
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import urlsplit

import httpx

from bench.lookup import KEYS, Latencies, LoneRouter, LookupOptions, ask_alone, lone_router, pin, split_cores
from bench.peers import Spawned, say
from bench.report import Table, spread

FOLLOWERS = 3
READ = "import sys, urllib.request as u; r = u.urlopen(sys.argv[1])\nwhile r.read1(65536): pass"
"""A program that follows a stream."""

POLL = "import sys, time, urllib.request as u\nwhile True: u.urlopen(sys.argv[1]).read(); time.sleep(1)"
"""A program that asks once a second."""


@dataclass(frozen=True)
class Watching:
    """One way to look inside."""

    settings: Mapping[str, Any]
    follows: tuple[str, ...] = ()
    """Paths of the admin API that are followed, one connection each."""
    polls: tuple[str, ...] = ()
    """Paths that are asked once a second."""
    shadow: Mapping[str, Any] | None = None
    """Document of a policy that decides beside the live one."""


TERMINALS = ("/v1/decisions?follow=true",) * FOLLOWERS
PAGE = ("/v1/live?follow=true", "/v1/events?follow=true")
PAGE_POLLS = ("/v1/decisions?limit=60&ended=true",)
"""Streams and questions of an open page, at an edge whose decisions are too many to follow each."""


def ways(folder: Path, policy: str) -> dict[str, Watching]:
    """The ways that are compared, by name; the first one keeps nothing."""
    log = str(folder / f"access-{policy}.jsonl")
    return {
        "nothing kept": Watching({"decisions": {"max_records": 0}}),
        "records": Watching({}),
        "records, access log": Watching({"decisions": {"access_log": log}}),
        "records, three followers": Watching({}, TERMINALS),
        "records, three followers, a page": Watching({}, TERMINALS + PAGE, PAGE_POLLS),
        "records, shadow": Watching({}, shadow={"policy": "kv_cost", "tie_ms": 1.0}),
    }


@contextlib.asynccontextmanager
async def reading(program: str, url: str, number: int, folder: Path) -> AsyncIterator[None]:
    """One reader of the admin API, kept off the router's core."""
    port = urlsplit(url).port
    reader = Spawned(f"reader-{port}-{number}", [sys.executable, "-c", program, url], folder, speaks=False)
    try:
        pin(reader.pid, split_cores()[1])
        yield
    finally:
        await reader.stop()


async def measure(policy: str, options: LookupOptions, folder: Path, rng: random.Random) -> dict[str, list[Latencies]]:
    """Interleaved slices of every way."""
    slices: dict[str, list[Latencies]] = defaultdict(list)
    async with AsyncExitStack() as stack:
        routers: dict[str, LoneRouter] = {}
        for number, (name, watching) in enumerate(ways(folder, policy).items()):
            opened = lone_router(policy, sys.executable, folder, name=str(number), more=watching.settings)
            router = routers[name] = await stack.enter_async_context(opened)
            pin(router.process.pid, split_cores()[0])
            api = f"http://127.0.0.1:{router.admin_port}"
            readers = [(READ, path) for path in watching.follows] + [(POLL, path) for path in watching.polls]
            for at, (program, path) in enumerate(readers):
                await stack.enter_async_context(reading(program, api + path, at, folder))
            if watching.shadow is not None:
                async with httpx.AsyncClient(base_url=api) as client:
                    answer = await client.put("/v1/policy/shadow", json={"document": watching.shadow})
                    answer.raise_for_status()
        for turn in range(options.rounds + 1):
            for name, router in routers.items():
                seconds = options.slice_s if turn else 0.5  # the first round warms up
                latencies = await ask_alone(router, policy, name, options.per_s, seconds, rng)
                if turn:
                    slices[name].append(latencies)
            say(f"watching: {policy}, round {turn} of {options.rounds}")
    return slices


def table(policy: str, slices: Mapping[str, list[Latencies]], options: LookupOptions) -> Table:
    """Costs by way."""
    first = next(iter(slices.values()))
    rows = []
    for name, ones in slices.items():
        added = [one.cpu_us - base.cpu_us for one, base in zip(ones, first, strict=True)]
        ratio = [one.ms["p99"] / base.ms["p99"] for one, base in zip(ones, first, strict=True)]
        rows.append(
            [
                name,
                spread([one.cpu_us for one in ones], 1),
                f"{median(added):+.1f}",
                spread([one.ms["p50"] for one in ones], 2),
                spread([one.ms["p99"] for one in ones], 2),
                spread(ratio, 2),
            ]
        )
    return Table(
        f"{policy}: what looking inside costs, at {options.per_s:.0f} lookups a second",
        ["way", "CPU, us a request", "added, us", "p50, ms", "p99, ms", "p99 to the first"],
        rows,
        [f"{options.rounds} rounds of {options.slice_s:g} s a way, interleaved; CPU is the whole router's"],
    )


async def run_watching(options: LookupOptions) -> tuple[list[Table], dict[str, Any]]:
    """The whole bench. Raises PeerError or LoadError."""
    rng = random.Random(2000)
    with tempfile.TemporaryDirectory(prefix="pointsman-bench-") as folder:
        found = {policy: await measure(policy, options, Path(folder), rng) for policy in KEYS}
    figures = {
        "options": asdict(options),
        "ways": {
            policy: {name: [asdict(one) for one in ones] for name, ones in slices.items()}
            for policy, slices in found.items()
        },
    }
    return [table(policy, slices, options) for policy, slices in found.items()], figures
