"""Costs of telling and following: routers in processes of their own, by the kernel's clock of each.

Three edges that serve nobody: one with the store in memory, one that shares through a real Valkey, one that follows it
there. The first two take turns in slices of the same requests; what the second took beyond the first is
the cost of telling, what the third took beyond idle slices the cost of following. Commands and bytes are Valkey's own
counts over the slices.

    python -m bench.shared_cost edge URL PEERS        one of these processes: answers `go RATE SECONDS` on its input
"""

from __future__ import annotations

import asyncio
import statistics
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvloop
from redis.asyncio import Redis

from bench.cpu import process_cpu_ns
from bench.shared_edges import Talkers, equip, in_step, router, valkey
from pointsman.router.process.logs import configure

QUIET_S = 2.0
JOIN_S = 30.0


class EdgeProcess:
    """One router in a process of its own, seen from outside."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def _line(self) -> str:
        assert self._process.stdout is not None
        return (await self._process.stdout.readline()).decode().strip()

    async def ready(self) -> None:
        """Once it is in step with those it was to meet. Raises RuntimeError when it is not."""
        async with asyncio.timeout(JOIN_S):
            said = await self._line()
        if said != "ready":
            raise RuntimeError(f"an edge ended: {said!r}")

    async def talk(self, rate: float, seconds: float) -> tuple[int, float]:
        """Decides at that rate for so long: requests, and median microseconds of one decision."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"go {rate} {seconds}\n".encode())
        requests, decide_us = (await self._line()).split()
        return int(requests), float(decide_us)

    def cpu_s(self) -> float:
        return process_cpu_ns(self._process.pid) / 1e9


@asynccontextmanager
async def edge_process(url: str, peers: int) -> AsyncIterator[EdgeProcess]:
    """Starts one and ends it; `url` is empty for a store in memory."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.shared_cost", "edge", url, str(peers)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield EdgeProcess(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def serve(url: str, peers: int) -> None:
    """The process: decides when told to."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    async with router(url) as made:
        equip(made)
        while not in_step(made, peers):  # noqa: ASYNC110 -- routers tell nobody
            await asyncio.sleep(0.01)
        print("ready", flush=True)
        talkers = Talkers(made)
        while line := (await reader.readline()).decode().split():
            before = talkers.count
            talkers.decide_s.clear()
            await talkers.run(float(line[1]), float(line[2]))
            print(talkers.count - before, f"{1e6 * statistics.median(talkers.decide_s):.2f}", flush=True)


async def cost(rate: float, seconds: float, rounds: int, *, quiet_s: float = QUIET_S) -> dict[str, Any]:
    """Slices of `seconds` at `rate` requests a second, in turns: medians over the rounds, with least and greatest.
    `quiet_s`: of warming up before them, and of an idle slice."""
    telling, following, idle, decide_us, decide_alone_us = [], [], [], [], []
    calls: dict[str, int] = {}
    totals = {"requests": 0, "in": 0, "out": 0}
    async with (
        valkey() as (url, client),
        edge_process("", 0) as alone,
        edge_process(url, 1) as teller,
        edge_process(url, 1) as follower,
    ):
        await asyncio.gather(alone.ready(), teller.ready(), follower.ready())
        await alone.talk(rate, quiet_s)
        await teller.talk(rate, quiet_s)
        for _ in range(rounds):
            before_s, followed_s = teller.cpu_s(), follower.cpu_s()
            await asyncio.sleep(quiet_s)
            follower_idle = (follower.cpu_s() - followed_s) / quiet_s
            idle += [(teller.cpu_s() - before_s) / quiet_s, follower_idle]
            before_s = alone.cpu_s()
            requests, us = await alone.talk(rate, seconds)
            alone_s = (alone.cpu_s() - before_s) / requests
            decide_alone_us.append(us)
            counts = await _counts(client)
            before_s, followed_s = teller.cpu_s(), follower.cpu_s()
            requests, us = await teller.talk(rate, seconds)
            telling.append(1e6 * ((teller.cpu_s() - before_s) / requests - alone_s))
            following.append(1e6 * (follower.cpu_s() - followed_s - seconds * follower_idle) / requests)
            decide_us.append(us)
            for name, count in (await _counts(client)).items():
                calls[name] = calls.get(name, 0) + count - counts.get(name, 0)
            totals["requests"] += requests
    totals["in"], totals["out"] = calls.pop("in"), calls.pop("out")
    calls.pop("info", None)
    requests = totals["requests"]
    return {
        "rate": rate,
        "decided_per_s": requests / (rounds * seconds),
        "commands_per_request": sum(calls.values()) / requests,
        "bytes_in_per_request": totals["in"] / requests,
        "bytes_out_per_request": totals["out"] / requests,
        "telling_ms_per_1000": _spread(telling),
        "following_ms_per_1000": _spread(following),
        "idle_ms_per_s": _spread([1000 * share for share in idle]),
        "decide_us_alone": statistics.median(decide_alone_us),
        "decide_us_shared": statistics.median(decide_us),
        "calls": {name: count for name, count in sorted(calls.items()) if count},
    }


def _spread(values: list[float]) -> list[float]:
    """Median, least, greatest."""
    return [statistics.median(values), min(values), max(values)]


async def _counts(client: Redis) -> dict[str, int]:
    """Valkey's counts so far: calls by command, bytes `in` and `out`."""
    stats, info = await client.info("commandstats"), await client.info("stats")
    calls = {name.removeprefix("cmdstat_"): int(entry["calls"]) for name, entry in stats.items()}
    return {**calls, "in": int(info["total_net_input_bytes"]), "out": int(info["total_net_output_bytes"])}


if __name__ == "__main__":
    configure(level="error")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(sys.argv[2], int(sys.argv[3])))
