"""CPU time of a request, and of a streamed token: the edge beside vllm-router, in one interleaved run.

Both sides stand before the same stub replicas and get the same requests from the same load generator. A *cell* is one
workload on one side; the cells of a workload take turns in short slices (A B A B ...), their order turned by one each
round, so that a slow spell of the machine falls on all. Per request: all CPU time of a side's processes in the slice
over the requests it completed in it. Per token: streams are opened first, then a window in which tokens flow and no
request begins or ends; idle CPU, measured in the same round, is taken off. A ratio is that of two slices of one
round; reported is the median over rounds.

Every answer is checked: status, length, number of events. A slice with a wrong answer, and a side that does not reach
all replicas, end the bench.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from bench import stub
from bench.budgets import HELD_TO, RAY_SERVE_LLM_US, bound, held_to, verdict
from bench.cpu import used_s
from bench.http import Request, chat_body
from bench.load import ClosedLoop, Expected, Tally, quantile
from bench.peers import (
    VLLM_ROUTER_VERSION,
    PeerError,
    Side,
    edge,
    find_compiled,
    find_vllm_router,
    say,
    served_counts,
    stub_replicas,
    vllm_router,
)
from bench.report import Table, median, spread

PATH = "/v1/chat/completions"
FAIL_OPEN = "fail-open"
SESSIONS = 256
BODY_KB = (2, 40, 200)
STREAM_BODY_BYTES = 2048
WARM_S = 0.3
MIN_DECIDED = 0.99
"""Below this share of answers placed by the router its work was not measured."""
MIN_ANSWERS, MAX_SLICE_S = 32, 10.0
"""A slice goes on until so many answers are in, or so long."""
SETTLE_S = 0.6
"""After all streams have begun: connections are up, decisions made and reported."""

OURS, COMPILED, LUA, PEER = "pointsman", "pointsman-compiled", "pointsman-lua", "vllm-router"


@dataclass(frozen=True)
class Pair:
    """A policy of ours and the peer's that does the same."""

    key: str
    ours: str
    peer: str
    topics: int = 1
    """Distinct prompts of each size; they share the system prompt."""
    haproxy: tuple[tuple[str, Any], ...] = ()
    """Settings that the policy needs of HAProxy's configuration."""
    lua: bool = True


PAIRS = (
    Pair("session", "consistent_hash", "consistent_hash"),
    # Plain endpoints tell nothing of first tokens: HAProxy's filter has to.
    Pair("prefix", "kv_cost", "cache_aware", 32, (("first_token", True),)),
    Pair("turns", "round_robin", "round_robin", lua=False),
)


@dataclass(frozen=True)
class EdgeOptions:
    """Sides, slices and rounds that are measured."""

    pairs: tuple[Pair, ...] = PAIRS
    slice_s: float = 2.0
    rounds: int = 5
    connections: int = 16
    replicas: int = 4
    streams: int = 128
    stream_tokens: int = 200
    token_interval_ms: float = 20.0
    compiled: bool = False
    """Whether what `make compiled` installs is a side as well."""

    @classmethod
    def quick(cls) -> EdgeOptions:
        return cls(pairs=PAIRS[:1], slice_s=0.4, rounds=2, stream_tokens=100)


@dataclass(frozen=True)
class Slice:
    """One measured slice. `cpu_us` is per request or per token, by part of the side.

    `decided` is the share of answers whose replica was not HAProxy's own choice: lookups that ran into their time limit
    cost little and decide nothing.
    """

    side: str
    count: int
    per_s: float
    cpu_us: dict[str, float]
    p50_ms: float
    p99_ms: float
    decided: float = 1.0

    @property
    def all_us(self) -> float:
        return sum(self.cpu_us.values())


def session_requests(bodies: list[bytes], path: str = PATH) -> Iterator[Request]:
    """Requests that repeat for ever, one session after the other; sessions share the bodies evenly."""
    requests = [
        Request.post(path, bodies[number % len(bodies)], session=f"session-{number:04d}") for number in range(SESSIONS)
    ]
    return itertools.cycle(requests)


async def measure_requests(side: Side, bodies: list[bytes], options: EdgeOptions) -> Slice:
    """A slice of whole answers. Raises PeerError when one was not as expected."""
    tally = Tally()
    load = ClosedLoop(
        side.port,
        session_requests(bodies),
        Expected(len(stub.ANSWER)),
        tally,
        connections=options.connections,
        read_names=True,
    )
    load.start()
    await asyncio.sleep(WARM_S)
    tally.latencies_s.clear()
    before, began_s, done = side.processes.read(), time.perf_counter(), tally.ok
    await asyncio.sleep(options.slice_s)
    while tally.ok < done + MIN_ANSWERS and time.perf_counter() < began_s + MAX_SLICE_S:  # noqa: ASYNC110 -- a tally
        await asyncio.sleep(0.01)
    count, took_s, after = tally.ok - done, time.perf_counter() - began_s, side.processes.read()
    latencies_s = tally.latencies_s[:count]
    await load.stop()
    _require_all_good(side, tally, count)
    cpu_us = {part: seconds / count * 1e6 for part, seconds in used_s(before, after).items()}
    p50_ms, p99_ms = (quantile(latencies_s, share) * 1000 for share in (0.5, 0.99))
    placed = 1 - tally.reasons[FAIL_OPEN] / tally.ok
    return Slice(side.name, count, count / took_s, cpu_us, p50_ms, p99_ms, placed)


async def measure_tokens(side: Side, body: bytes, idle: dict[str, float], options: EdgeOptions) -> Slice:
    """A slice in which only tokens flow; `idle` is the side's CPU seconds a second without load, by part."""
    tokens = options.stream_tokens
    tally = Tally()
    expected = Expected(stub.stream_bytes(tokens), stub.stream_events(tokens))
    load = ClosedLoop(side.port, session_requests([body]), expected, tally, connections=options.streams)
    load.start()
    stream_s = tokens * options.token_interval_ms / 1000
    async with asyncio.timeout(stream_s):
        while load.answering < options.streams:  # noqa: ASYNC110 -- counted by 128 connections, asked 100 times a second
            await asyncio.sleep(0.01)
    await asyncio.sleep(SETTLE_S)
    before, began_s, events = side.processes.read(), time.perf_counter(), load.events
    await asyncio.sleep(max(0.2, stream_s - 2 * SETTLE_S - WARM_S))
    count, took_s, after = load.events - events, time.perf_counter() - began_s, side.processes.read()
    if tally.outcomes:
        raise PeerError(f"{side.name}: streams ended inside the measured window: the machine is too busy")
    await load.stop()
    _require_all_good(side, tally, count)
    used = used_s(before, after)
    cpu_us = {part: (used[part] - idle.get(part, 0.0) * took_s) / count * 1e6 for part in used}
    return Slice(side.name, count, count / took_s, cpu_us, float("nan"), float("nan"))


async def measure_idle(sides: list[Side], seconds: float) -> dict[str, dict[str, float]]:
    """CPU seconds a second of each side without load, by part."""
    before = {side.name: side.processes.read() for side in sides}
    began_s = time.perf_counter()
    await asyncio.sleep(seconds)
    took_s = time.perf_counter() - began_s
    return {
        side.name: {part: s / took_s for part, s in used_s(before[side.name], side.processes.read()).items()}
        for side in sides
    }


def _require_all_good(side: Side, tally: Tally, count: int) -> None:
    if tally.failed or not count:
        raise PeerError(f"{side.name}: {count} good answers, and {tally.failed}: nothing to compare")


async def require_all_reached(side: Side, bodies: list[bytes], urls: list[str], connections: int) -> None:
    """Raises PeerError unless every replica answers some of the sessions' requests, and all are answered."""
    before = await asyncio.to_thread(served_counts, urls)
    tally = Tally()
    load = ClosedLoop(side.port, session_requests(bodies), Expected(len(stub.ANSWER)), tally, connections=connections)
    load.start()
    await asyncio.sleep(WARM_S)
    async with asyncio.timeout(20):
        while tally.ok < SESSIONS and not tally.failed:  # noqa: ASYNC110 -- as above
            await asyncio.sleep(0.01)
    await load.stop()
    _require_all_good(side, tally, tally.ok)
    after = await asyncio.to_thread(served_counts, urls)
    served = [now - then for now, then in zip(after, before, strict=True)]
    if sum(served) != tally.ok or not all(served):
        raise PeerError(f"{side.name}: {tally.ok} answers, of which the replicas gave {served}")


async def measure_pair(pair: Pair, urls: list[str], options: EdgeOptions, folder: Path) -> dict[str, list[Slice]]:
    """All slices of one pair of policies, by workload: `2`, `40`, `200` (KB), and `tokens` for the first pair."""
    slices: dict[str, list[Slice]] = defaultdict(list)
    async with AsyncExitStack() as stack:
        say(f"{pair.ours}: starting the sides")
        config = folder / "up.yaml"
        config.write_text(yaml.safe_dump({"haproxy": dict(pair.haproxy)}))
        up = ["--replicas", "0", "--config", str(config)]
        made = {OURS: ("spoe", sys.executable)}
        if options.compiled:
            made[COMPILED] = ("spoe", find_compiled())
        if pair.lua:
            made[LUA] = ("lua", sys.executable)
        sides = [
            await stack.enter_async_context(
                edge(name, folder, policy=pair.ours, lookup=lookup, replicas=urls, up=up, python=python)
            )
            for name, (lookup, python) in made.items()
        ]
        sides.append(await stack.enter_async_context(vllm_router(PEER, folder, policy=pair.peer, replicas=urls)))
        topics = [f"topic {number:02d}" for number in range(pair.topics)]
        bodies = {str(kb): [chat_body(kb * 1024, topic=topic, model=stub.MODEL) for topic in topics] for kb in BODY_KB}
        stream_body = chat_body(STREAM_BODY_BYTES, max_tokens=options.stream_tokens, stream=True, model=stub.MODEL)
        for side in sides:
            await require_all_reached(side, bodies["2"], urls, options.connections)
        for turn in range(options.rounds):
            say(f"{pair.ours}: round {turn + 1} of {options.rounds}")
            order = sides[turn % len(sides) :] + sides[: turn % len(sides)]
            for workload, of_size in bodies.items():
                for side in order:
                    slices[workload].append(await measure_requests(side, of_size, options))
            if pair is PAIRS[0]:
                idle = await measure_idle(sides, options.slice_s)
                for side in order:
                    if side.name in (OURS, PEER):  # the others have the same data plane
                        slices["tokens"].append(await measure_tokens(side, stream_body, idle[side.name], options))
    return slices


def of(slices: list[Slice], side: str) -> list[Slice]:
    return [one for one in slices if one.side == side]


def decided(slices: list[Slice]) -> float:
    """The share of all their answers that the router placed."""
    return sum(one.decided * one.count for one in slices) / sum(one.count for one in slices)


def ratios(slices: list[Slice], side: str, peer: str = PEER) -> list[float]:
    """CPU of a side over the peer's, round by round."""
    return [a.all_us / b.all_us for a, b in zip(of(slices, side), of(slices, peer), strict=True)]


def request_table(pair: Pair, slices: dict[str, list[Slice]]) -> Table:
    """Microseconds of CPU per request."""
    rows = []
    for kb in map(str, BODY_KB):
        for side in (OURS, COMPILED, LUA, PEER):
            mine = of(slices[kb], side)
            if not mine:
                continue
            ratio = ratios(slices[kb], side)
            key = f"edge.{pair.key}.{kb}" if side in (OURS, COMPILED) else ""
            parts = " + ".join(
                f"{median([one.cpu_us[part] for one in mine]):.0f} {part}"
                for part in ("haproxy", "router")
                if part in mine[0].cpu_us
            )
            rows.append(
                [
                    f"{kb} KB, {side}",
                    spread([one.all_us for one in mine]),
                    parts,
                    spread(ratio, 2) if side != PEER else "1",
                    bound(key),
                    f"{decided(mine) * 100:.1f} %" if side != PEER else "",
                    f"{median([one.per_s for one in mine]):.0f}",
                    f"{median([one.p50_ms for one in mine]):.2f} / {median([one.p99_ms for one in mine]):.1f}",
                    _verdict(key, mine, ratio),
                ]
            )
    return Table(
        f"Edge CPU per request: {pair.ours} beside vllm-router's {pair.peer}",
        ["body, side", "CPU us", "of which", "ratio", "budget", "decided", "req/s", "p50 / p99 ms", "verdict"],
        rows,
    )


def _verdict(key: str, mine: list[Slice], ratio: list[float]) -> str:
    if bound(key) and decided(mine) < MIN_DECIDED:
        return "void: too few decided"
    return verdict(key, median(ratio))


def token_table(slices: list[Slice], session_2kb: list[Slice], notes: list[str]) -> Table:
    """Microseconds of CPU per streamed token, and the scale of Ray Serve."""
    ours, peer = of(slices, OURS), of(slices, PEER)
    router_us = [one.cpu_us.get("router", 0.0) for one in ours]
    ray = [one.all_us / RAY_SERVE_LLM_US for one in of(session_2kb, OURS)]
    rows = [
        held_to("per token, pointsman, us", [one.all_us for one in ours], 1),
        held_to("per token, vllm-router, us", [one.all_us for one in peer], 1),
        held_to("per token, ratio", ratios(slices, OURS), 2, "edge.token"),
        held_to("per token, router process, us", router_us, 2, "edge.token.router"),
        held_to(f"per request at 2 KB over Ray Serve LLM's {RAY_SERVE_LLM_US:.0f} us", ray, 2, "edge.ray"),
    ]
    return Table("Edge CPU per streamed token", HELD_TO, rows, notes)


async def run_edge(options: EdgeOptions) -> tuple[list[Table], dict[str, Any]]:
    """The whole bench. Raises PeerError."""
    await asyncio.to_thread(find_vllm_router)
    measured: dict[str, dict[str, list[Slice]]] = {}
    with tempfile.TemporaryDirectory(prefix="pointsman-bench-") as folder:
        async with stub_replicas(options.replicas, options.token_interval_ms, Path(folder)) as urls:
            for pair in options.pairs:
                log_dir = Path(folder) / pair.key
                log_dir.mkdir()
                measured[pair.key] = await measure_pair(pair, urls, options, log_dir)
    tables = [request_table(pair, measured[pair.key]) for pair in options.pairs]
    tables.append(token_table(measured["session"]["tokens"], measured["session"]["2"], _notes(options)))
    figures = {
        "options": asdict(options),
        "slices": {
            key: {workload: [asdict(one) for one in slices] for workload, slices in by_workload.items()}
            for key, by_workload in measured.items()
        },
    }
    return tables, figures


def _notes(options: EdgeOptions) -> list[str]:
    return [
        f"median (least-greatest) of {options.rounds} slices of {options.slice_s:g} s a side; ratio: median of the "
        f"ratios of slices of one round; {options.connections} keep-alive connections, closed loop, {SESSIONS} "
        f"sessions, {options.replicas} stub replicas",
        "decided: the share of the requests that the router placed, not HAProxy alone",
        f"vllm-router {VLLM_ROUTER_VERSION} logs nothing per request here; at its default level its consistent_hash "
        "writes three lines a request",
        f"tokens: {options.streams} streams, a token each every {options.token_interval_ms:g} ms, idle CPU taken off",
    ]
