"""Agents through the live edge, beside vllm-router: `python -m bench agentic`.

aiperf plays one trace of agentic sessions (`bench/agentic_loop.json`) against each side in turn, round by round:
HAProxy and a router of ours, and vllm-router with its policies that go by session and by cache. Each side gets
simulated engines of its own that begin empty, all of one make. Reported: CPU time of the edge a request, between the
first request and the last answer, and what the client saw. Engines, client and edge share the machine, so times to the
first token hold their queueing for cores too; read them as ratios.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from bench.aiperf import Answer, Played, find_aiperf
from bench.cpu import ProcessTree, Reading, used_s
from bench.peers import PeerError, Side, Spawned, edge, find_vllm_router, replica_states, say, until, vllm_router
from bench.report import Table, median, spread

MODEL = "sim"
OURS = "pointsman"
PEER = "vllm-router"
WITHIN_S = 1_800.0
READ_EVERY_S = 0.5


@dataclass(frozen=True)
class AgenticOptions:
    """Sessions that are played, and the fleet that serves them."""

    sessions: int = 64
    concurrency: int = 64
    rounds: int = 2
    replicas: int = 4
    kv_tokens: int = 524_288
    seed: int = 42

    @classmethod
    def quick(cls) -> AgenticOptions:
        return cls(sessions=8, concurrency=8, rounds=1, replicas=2)


@dataclass(frozen=True)
class Contestant:
    """A side by name and policy."""

    make: str
    policy: str

    @property
    def name(self) -> str:
        return f"{self.make} {self.policy}"


CONTESTANTS = (
    Contestant(OURS, "kv_cost"),
    Contestant(PEER, "consistent_hash"),
    Contestant(OURS, "session_affinity"),
    Contestant(PEER, "cache_aware"),
)


@dataclass(frozen=True)
class Run:
    """One side's round."""

    parts_us: dict[str, float]
    """CPU time of the edge a request, by kind of process."""
    played: Played
    prompt_tokens: list[int]
    """By replica."""

    @property
    def edge_us(self) -> float:
        return sum(self.parts_us.values())

    @property
    def hit_rate(self) -> float:
        answers = self.played.answers
        return sum(a.cached_tokens for a in answers) / max(1, sum(a.prompt_tokens for a in answers))

    @property
    def imbalance(self) -> float:
        """Most over mean of the prompt tokens of a replica."""
        return max(self.prompt_tokens) / max(1.0, statistics.fmean(self.prompt_tokens))

    def figures(self) -> dict[str, Any]:
        tpot = [a.tpot_ms for a in self.played.answers if not math.isnan(a.tpot_ms)]
        return {
            "edge_us_per_request": self.edge_us,
            "parts_us_per_request": self.parts_us,
            "requests": len(self.played.answers),
            "errors": self.played.errors,
            "output_tokens": sum(answer.output_tokens for answer in self.played.answers),
            "ttft_ms": _spread_of([answer.ttft_ms for answer in self.played.answers]),
            "later_ttft_ms": _spread_of([answer.ttft_ms for answer in self.played.answers if answer.turn]),
            "tpot_ms": statistics.fmean(tpot) if tpot else math.nan,
            "hit_rate": self.hit_rate,
            "imbalance": self.imbalance,
        }


def _spread_of(values: Sequence[float]) -> dict[str, float]:
    ordered = sorted(values)
    percentiles = {f"p{at}": ordered[min(len(ordered) - 1, len(ordered) * at // 100)] for at in (50, 95, 99)}
    return {"mean": statistics.fmean(ordered), **percentiles}


@contextlib.asynccontextmanager
async def engines(
    options: AgenticOptions, log_dir: Path, admin_url: str = ""
) -> AsyncIterator[tuple[list[Spawned], list[str]]]:
    """Simulated engines that begin empty, and their URLs; they register where there is a router of ours."""
    spawned: list[Spawned] = []
    try:
        for number in range(options.replicas):
            argv = [sys.executable, "-m", "pointsman.engine.sim", "--replica-id", f"sim-{number}", "--model", MODEL]
            argv += ["--kv-tokens", str(options.kv_tokens)]
            if admin_url:
                argv += ["--register", admin_url]
            spawned.append(Spawned(f"sim-{number}", argv, log_dir))
        yield spawned, [(await engine.line()).split()[-1] for engine in spawned]
    finally:
        await asyncio.gather(*(engine.stop() for engine in spawned))


@contextlib.asynccontextmanager
async def our_side(
    contestant: Contestant, options: AgenticOptions, log_dir: Path
) -> AsyncIterator[tuple[Side, list[str]]]:
    """Our edge over engines that tell it what they hold."""
    async with (
        edge(contestant.make, log_dir, policy=contestant.policy) as side,
        engines(options, log_dir, side.admin_url) as (spawned, urls),
        httpx.AsyncClient(base_url=side.admin_url, timeout=5.0, trust_env=False) as admin,
    ):

        async def all_up() -> bool:
            return list((await replica_states(admin)).values()) == ["up"] * len(urls)

        await until(all_up, "the fleet", spawned[0])
        yield side, urls


@contextlib.asynccontextmanager
async def peer_side(
    contestant: Contestant, options: AgenticOptions, log_dir: Path
) -> AsyncIterator[tuple[Side, list[str]]]:
    """vllm-router over engines of the same make."""
    async with (
        engines(options, log_dir) as (_, urls),
        vllm_router("peer", log_dir, policy=contestant.policy, replicas=urls) as side,
    ):
        yield side, urls


@contextlib.asynccontextmanager
async def readings(processes: ProcessTree) -> AsyncIterator[list[tuple[int, Reading]]]:
    """CPU clocks of an edge every half second, each with the time (`time.time_ns`)."""
    seen: list[tuple[int, Reading]] = []

    async def look() -> None:
        while True:
            seen.append((time.time_ns(), processes.read()))
            await asyncio.sleep(READ_EVERY_S)

    looking = asyncio.create_task(look())
    try:
        yield seen
        seen.append((time.time_ns(), processes.read()))
    finally:
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)


def used_between(seen: Sequence[tuple[int, Reading]], first_ns: int, last_ns: int) -> dict[str, float]:
    """CPU seconds by kind of process, from the last reading before `first_ns` to the first one after `last_ns`."""
    before = max((one for one in seen if one[0] <= first_ns), key=lambda one: one[0], default=seen[0])
    after = min((one for one in seen if one[0] >= last_ns), key=lambda one: one[0], default=seen[-1])
    return used_s(before[1], after[1])


async def _prompt_tokens(urls: Sequence[str]) -> list[int]:
    counted = []
    async with httpx.AsyncClient(timeout=5.0, trust_env=False) as client:
        for url in urls:
            lines = (await client.get(f"{url}/metrics")).text.splitlines()
            counted += [int(float(line.split()[-1])) for line in lines if line.startswith("vllm:prompt_tokens_total{")]
    return counted


async def _answers(port: int) -> bool:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 1}
    async with httpx.AsyncClient(timeout=10.0, trust_env=False) as client:
        answer = await client.post(f"http://127.0.0.1:{port}/v1/chat/completions", json=body)
        return answer.status_code == 200


async def run_agentic(options: AgenticOptions) -> tuple[list[Table], dict[str, Any]]:
    """Rounds of all sides in turn. Raises PeerError."""
    with tempfile.TemporaryDirectory(prefix="pm-bench-") as folder:
        root = Path(folder)
        find_vllm_router()
        aiperf = await asyncio.to_thread(find_aiperf, root / "hf")
        trace = await asyncio.to_thread(aiperf.synthesize, options.sessions, options.seed, root / "trace")
        runs: dict[str, list[Run]] = {contestant.name: [] for contestant in CONTESTANTS}
        for number in range(options.rounds):
            order = CONTESTANTS if number % 2 == 0 else CONTESTANTS[::-1]
            for contestant in order:
                log_dir = root / f"{number}-{contestant.policy}"
                log_dir.mkdir()
                start = our_side if contestant.make == OURS else peer_side
                async with start(contestant, options, log_dir) as (side, urls):
                    if not await _answers(side.port):
                        raise PeerError(f"{contestant.name} does not answer")
                    async with readings(side.processes) as seen:
                        played = await aiperf.play(
                            trace, side.port, model=MODEL, concurrency=options.concurrency, out=log_dir / "aiperf",
                            within_s=WITHIN_S,
                        )  # fmt: skip
                    used = used_between(seen, played.first_ns, played.last_ns)
                    each_us = {part: part_s / max(1, len(played.answers)) * 1e6 for part, part_s in used.items()}
                    run = Run(each_us, played, await _prompt_tokens(urls))
                if not played.answers:
                    raise PeerError(f"{contestant.name} answered nothing")
                runs[contestant.name].append(run)
                ttft = run.figures()["ttft_ms"]
                say(f"round {number + 1}, {contestant.name}: {run.edge_us:,.0f} us, TTFT {ttft['mean']:,.0f} ms")
    return [_table(options, runs)], {name: [run.figures() for run in made] for name, made in runs.items()}


def _table(options: AgenticOptions, runs: dict[str, list[Run]]) -> Table:
    columns = ["", "edge CPU, us a request", "TTFT mean, ms", "p50", "p99", "later turns, mean", "TPOT, ms"]
    columns += ["hit rate", "imbalance", "errors"]
    rows = []
    for name, made in runs.items():
        seen = [run.figures() for run in made]
        rows.append(
            [
                name,
                spread([one["edge_us_per_request"] for one in seen]),
                *(spread([one["ttft_ms"][key] for one in seen]) for key in ("mean", "p50", "p99")),
                spread([one["later_ttft_ms"]["mean"] for one in seen]),
                spread([one["tpot_ms"] for one in seen], 1),
                f"{median([one['hit_rate'] for one in seen]):.3f}",
                f"{median([one['imbalance'] for one in seen]):.2f}",
                str(sum(one["errors"] for one in seen)),
            ]
        )
    first: list[Answer] = next(iter(runs.values()))[0].played.answers
    notes = [
        f"{options.sessions} sessions of {len(first) // options.sessions} turns, {options.concurrency} at a time, "
        f"prompts of {statistics.fmean(answer.prompt_tokens for answer in first):,.0f} tokens on average, "
        f"{options.replicas} simulated engines of {options.kv_tokens:,} tokens of KV, rounds: {options.rounds}.",
    ]
    return Table("By side and policy", columns, rows, notes)
