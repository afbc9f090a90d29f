"""Usage through a whole edge, request by request, beside what the engines themselves wrote down."""

from __future__ import annotations

import asyncio
import itertools
import random
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from edge import RunningEdge, running_up, until
from usage_load import Comparison, Figures, UsageLoad, keys_map, read_log

pytestmark = [pytest.mark.e2e, pytest.mark.system]

ENGINE = {"timing": "fast", "faults": True, "mean_output_tokens": 0, "token_interval_ms": 2.0, "prefill_timeout_s": 5.0}
PATIENT = {"timeouts": {"processing_ms": 3000, "router_check_ms": 1000}}
"""So that a machine that is busy with other things does not make the edge fail open."""

DECODERS = ("sim-1", "sim-2", "sim-3")
FLEET = (*DECODERS, "prefill-1", "prefill-2")


@asynccontextmanager
async def loaded_edge(folder: Path, requests: int, **router: Any) -> AsyncIterator[UsageLoad]:
    """An edge with three decode and two prefill replicas, and as many API keys as requests."""
    keys, log = folder / "keys.map", folder / "requests.log"
    keys.write_text(keys_map(requests))
    async with running_up(
        3, "--prefill", "2", "--policy", "kv_cost",
        engine=ENGINE | {"request_log": str(log)},
        haproxy={"api_keys_map": str(keys), **PATIENT},
        router={"pair": {"min_uncached_tokens": 200, "handoff_ms": 1.0, "patience": 50.0}, **router},
    ) as edge:  # fmt: skip
        yield UsageLoad(edge, log)


async def disturb(load: UsageLoad, *, kill_s: float, seed: int = 5) -> None:
    """Kills engines at random, and has others reset connections, until cancelled."""
    dice = random.Random(seed)
    for number in itertools.count():
        await asyncio.sleep(kill_s * dice.uniform(0.5, 1.5))
        if number % 3 == 2:
            await kill(load, dice.choice(FLEET))
        else:
            await fault(load.edge, dice.choice(DECODERS), reset_before_response=dice.randint(1, 4))


async def kill(load: UsageLoad, replica: str) -> None:
    """SIGKILL to an engine, which `up` starts again."""

    async def is_up() -> bool:
        return (await load.edge.states()).get(replica) == "up"

    await until(is_up)
    process = load.edge.replica(replica)
    load.killed[process.pid] = time.time()
    process.kill()


async def fault(edge: RunningEdge, replica: str, **switches: Any) -> None:
    view = (await edge.replicas()).get(replica)
    if view is not None and view["state"] == "up":
        await edge.client.post(f"{view['url']}/sim/fault", json=switches)


def compared(load: UsageLoad, counted: dict[str, dict[str, Any]]) -> Comparison:
    return Comparison(counted, read_log(load.log), load.killed)


async def counted_by(edge: RunningEdge, name: str) -> float:
    """The sum of a family of metrics."""
    return sum(value for sample, value in (await edge.metrics()).items() if sample.partition("{")[0] == name)


async def check(load: UsageLoad, requests: int, *, kill_s: float) -> Comparison:
    """Requests of all kinds while engines are killed; every one is counted once, with what engines wrote."""
    disturbing = asyncio.create_task(disturb(load, kill_s=kill_s))
    await load.run(iter(range(requests)))
    disturbing.cancel()
    await asyncio.gather(disturbing, return_exceptions=True)
    counted = await load.settled()
    found = compared(load, counted)
    lines = counted.values()
    report = {
        "kinds": dict(load.kinds),
        "outcomes": dict(load.outcomes),
        "requests": sum(line["requests"] for line in lines),
        "estimated requests": sum(line["estimated"]["requests"] for line in lines),
        "engines killed": len(load.killed),
        "not reported": len(found.incomplete),
        "lost for s": round(found.late_s, 3),
        "tenants": {name: {what: tuple(f) for what, f in sums.items()} for name, sums in found.by_tenant().items()},
    }
    print(report)
    assert not found.wrong, (len(found.wrong), dict(list(found.wrong.items())[:5]), report)
    # Whatever is counted, is counted once, by both who count.
    assert sum(line["requests"] for line in lines) == await counted_by(load.edge, "pointsman_model_requests_total")
    assert max(line["requests"] for line in lines) == 1
    return found


async def test_usage_is_what_engines_did_for_each_request(tmp_path: Path) -> None:
    """Streams, whole answers, several answers and prompts, prefill elsewhere, clients that leave: all to the token."""
    async with loaded_edge(tmp_path, 400) as load:
        found = await check(load, 400, kill_s=3600.0)
        assert found.incomplete == []
        assert sum(line["estimated"]["requests"] for line in found.counted.values()) == 0


async def test_what_killed_engines_did_not_report_is_an_estimate(tmp_path: Path) -> None:
    """Nothing else is, and each request is counted once."""
    async with loaded_edge(tmp_path, 600) as load:
        found = await check(load, 600, kill_s=0.3)
        assert load.killed
        for tag in found.incomplete:
            assert tag not in found.counted or found.counted[tag]["requests"] <= 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["stopped", "killed"])
async def test_usage_is_kept_when_the_router_starts_again(tmp_path: Path, number: signal.Signals) -> None:
    """Streams that outlive it count too. Of one that is killed, what it counted in its last second is lost."""
    async with loaded_edge(tmp_path, 500) as load:
        working = asyncio.create_task(load.run(iter(range(500))))
        await until(lambda: enough(load, 200))
        ended_s = time.time()
        load.edge.router().send_signal(number)
        await working
        await until(lambda: answers(load.edge))
        counted = await load.settled()
        found = Comparison(counted, read_log(load.log), {})
        lost = {tag for tag in found.incomplete if found.truth[tag] != Figures()}
        ends = {tag: ended_s - found.ended_s[tag] for tag in lost}
        print({"lost": len(lost), "ended before, s": sorted(round(before, 3) for before in ends.values())})
        assert max(line["requests"] for line in counted.values()) == 1
        if number is signal.SIGTERM:
            assert not lost, {tag: (ends[tag], found.truth[tag], counted.get(tag)) for tag in lost}
        # A second between two writes, and the time that a busy machine takes for one.
        assert all(-0.1 < before < 4.0 for before in ends.values()), ends


async def test_no_request_goes_uncounted_while_routers_stop_and_start() -> None:
    """HAProxy decides alone then, and keeps the lines of what ends for the router that comes."""
    async with running_up(2, engine=ENGINE, haproxy=PATIENT) as edge:
        statuses: Counter[int] = Counter()
        stopping = asyncio.Event()

        async def client(name: str) -> None:
            for turn in itertools.count():
                if stopping.is_set():
                    return
                statuses[(await edge.chat(f"{name} {turn}", max_tokens=2)).status_code] += 1

        async with asyncio.TaskGroup() as group:
            for number in range(8):
                group.create_task(client(f"client {number}"))
            for _ in range(4):
                await asyncio.sleep(0.5)
                router = edge.router()
                router.terminate()
                await asyncio.to_thread(router.wait, 30)
                await until(lambda: answers(edge, 2))
            stopping.set()

        async def sums() -> tuple[int, int]:
            usage = (await edge.admin.get("/v1/usage")).json()["usage"]
            return sum(line["requests"] for line in usage), sum(line["estimated"]["requests"] for line in usage)

        async def settled() -> bool:
            return (await edge.metrics())["pointsman_usage_open_requests"] == 0

        await asyncio.sleep(1.0)
        await until(settled)
        assert set(statuses) == {200}
        assert await sums() == (statuses[200], 0)


async def answers(edge: RunningEdge, replicas: int = len(FLEET)) -> bool:
    """Whether the router is there again, with all its replicas."""
    try:
        states = await edge.states()
    except httpx.HTTPError:
        return False
    return len(states) == replicas and set(states.values()) == {"up"}


async def enough(load: UsageLoad, requests: int) -> bool:
    return sum(load.outcomes.values()) >= requests


@pytest.mark.soak
@pytest.mark.timeout(1800)
async def test_usage_of_ten_thousand_requests(tmp_path: Path) -> None:
    """The same with 10,000 requests of three tenants."""
    async with loaded_edge(tmp_path, 10_000) as load:
        await check(load, 10_000, kill_s=2.0)
