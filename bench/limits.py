"""One limit kept by several edges: what a tenant gets that offers five times its tokens, and what others feel of it.

Live edges by `pointsman up --edges N --require-keys` over simulated replicas. The clients of each tenant take the edges
in turn. Three stretches: without the greedy tenant, with it and its limit, with it and no limit. Tokens are those of
the answers' own `usage`.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any

import httpx

from bench.edge import PATH
from bench.load import quantile
from bench.pace import call_when_due
from bench.peers import Spawned, say
from bench.report import Table

OTHERS = ("b", "c", "d")
GREEDY = "greedy"
OFFERED = 5
PROMPT_CHARACTERS = 1600
OUTPUT_TOKENS = 100
REQUEST_TOKENS = 500
"""Tokens of a prompt, by the simulated engine's count of about four characters each, and of its answer."""


@dataclass(frozen=True)
class LimitsOptions:
    """Load that is offered, and for how long."""

    edges: tuple[int, ...] = (2, 4)
    tokens_per_minute: int = 100_000
    limited_s: float = 300.0
    beside_s: float = 90.0
    """Length of each stretch without the greedy tenant or without its limit."""
    replicas: int = 2
    others_per_s: float = 1.5

    @classmethod
    def quick(cls) -> LimitsOptions:
        return cls(edges=(2,), limited_s=60.0, beside_s=20.0)


@dataclass
class Heard:
    """Answers that clients had."""

    ttft_s: dict[str, list[float]] = field(default_factory=dict)
    tokens: Counter[str] = field(default_factory=Counter)
    statuses: dict[str, Counter[int]] = field(default_factory=dict)


class Clients:
    """Clients of some edges."""

    def __init__(self, urls: list[str], keys: dict[str, str]) -> None:
        self._http = [
            httpx.AsyncClient(base_url=url, timeout=120.0, trust_env=False, limits=httpx.Limits(max_connections=2000))
            for url in urls
        ]
        self._keys = keys
        self._dice = random.Random(5)

    async def close(self) -> None:
        for one in self._http:
            await one.aclose()

    async def play(self, rates: dict[str, float], seconds: float) -> Heard:
        """Offer so many requests a second of each tenant for a while, and wait for their answers."""
        heard = Heard()
        async with asyncio.TaskGroup() as group:
            for tenant, per_s in rates.items():
                group.create_task(self._tenant(tenant, per_s, seconds, heard))
        return heard

    async def _tenant(self, tenant: str, per_s: float, seconds: float, heard: Heard) -> None:
        heard.ttft_s[tenant], heard.statuses[tenant] = [], Counter()
        edges = cycle(self._http)
        async with asyncio.TaskGroup() as group:
            await call_when_due(
                [number / per_s for number in range(int(per_s * seconds))],
                lambda number: group.create_task(self._one(next(edges), tenant, heard)),
            )

    async def _one(self, http: httpx.AsyncClient, tenant: str, heard: Heard) -> None:
        text = self._dice.randbytes(PROMPT_CHARACTERS // 2).hex()
        body = {
            "model": "sim",
            "messages": [{"role": "user", "content": text}],
            "max_tokens": OUTPUT_TOKENS,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        sent_s = time.perf_counter()
        async with http.stream(
            "POST", PATH, json=body, headers={"authorization": f"Bearer {self._keys[tenant]}"}
        ) as answer:
            heard.statuses[tenant][answer.status_code] += 1
            if answer.status_code != 200:
                await answer.aread()
                return
            first_s = 0.0
            async for line in answer.aiter_lines():
                if not line.startswith("data: {"):
                    continue
                first_s = first_s or time.perf_counter()
                usage = json.loads(line[6:]).get("usage")
                if usage:
                    heard.tokens[tenant] += usage["total_tokens"]
            heard.ttft_s[tenant].append(first_s - sent_s)


@asynccontextmanager
async def edges(count: int, replicas: int, folder: Path) -> AsyncIterator[tuple[list[str], list[str]]]:
    """URLs for clients, and of the admin APIs."""
    argv = [sys.executable, "-m", "pointsman", "up", "--edges", str(count), "--require-keys"]
    argv += ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--replicas", str(replicas)]
    process = Spawned(f"edges-{count}", [*argv, "--run-dir", str(folder / f"run-{count}")], folder)
    try:
        lines = [(await process.line()).split() for _ in range(count)]
        yield [line[1] for line in lines], [line[3] for line in lines]
    finally:
        await process.stop()


async def measure(count: int, options: LimitsOptions, folder: Path) -> dict[str, Any]:
    """Figures of so many edges."""
    greedy_per_s = OFFERED * options.tokens_per_minute / 60 / REQUEST_TOKENS
    others = dict.fromkeys(OTHERS, options.others_per_s)
    async with (
        edges(count, options.replicas, folder) as (urls, admins),
        httpx.AsyncClient(base_url=admins[0], trust_env=False) as admin,
    ):
        keys = {}
        for tenant in (GREEDY, *OTHERS):
            keys[tenant] = (await admin.post("/v1/keys", json={"tenant": tenant})).json()["key"]
        limits = {"limits": {"tokens_per_minute": options.tokens_per_minute}}
        (await admin.put(f"/v1/tenants/{GREEDY}", json=limits)).raise_for_status()
        await asyncio.sleep(1.0)
        clients = Clients(urls, keys)
        say(f"limits: {count} edges, without the greedy tenant")
        without = await clients.play(others, options.beside_s)
        say(f"limits: {count} edges, limited")
        limited = await clients.play({GREEDY: greedy_per_s, **others}, options.limited_s)
        (await admin.delete(f"/v1/tenants/{GREEDY}")).raise_for_status()
        await asyncio.sleep(1.0)
        say(f"limits: {count} edges, not limited")
        free = await clients.play({GREEDY: greedy_per_s, **others}, options.beside_s)
        await clients.close()
    got, allowed = limited.tokens[GREEDY], options.tokens_per_minute * options.limited_s / 60
    return {
        "edges": count,
        "offered": greedy_per_s * REQUEST_TOKENS * options.limited_s,
        "allowed": allowed,
        "got": got,
        "error_percent": 100 * (got / allowed - 1),
        "statuses": {tenant: dict(counts) for tenant, counts in limited.statuses.items()},
        "others_p99_ttft_ms": {
            name: 1000 * quantile([ttft_s for tenant in OTHERS for ttft_s in heard.ttft_s[tenant]], 0.99)
            for name, heard in (("without", without), ("limited", limited), ("free", free))
        },
    }


def table(found: list[dict[str, Any]], options: LimitsOptions) -> Table:
    """Figures by number of edges."""
    rows = [
        [
            str(one["edges"]),
            f"{one['offered']:,.0f}",
            f"{one['allowed']:,.0f}",
            f"{one['got']:,}",
            f"{one['error_percent']:+.2f} %",
            *(f"{one['others_p99_ttft_ms'][name]:.0f}" for name in ("without", "limited", "free")),
        ]
        for one in found
    ]
    return Table(
        f"A tenant of {options.tokens_per_minute:,} tokens a minute that offers {OFFERED} times as many",
        ["edges", "offered", "allowed", "got", "error", "others' p99 TTFT without it, ms", "limited", "not limited"],
        rows,
        [
            f"{options.limited_s:g} s limited, {options.beside_s:g} s each without the tenant and without the limit; "
            f"{options.replicas} simulated replicas; {len(OTHERS)} other tenants with {options.others_per_s:g} "
            "requests a second each"
        ],
    )


async def run_limits(options: LimitsOptions) -> tuple[list[Table], dict[str, Any]]:
    """The whole bench. Raises PeerError."""
    with tempfile.TemporaryDirectory(prefix="pointsman-bench-") as folder:
        found = [await measure(count, options, Path(folder)) for count in options.edges]
    return [table(found, options)], {"options": asdict(options), "edges": found}
