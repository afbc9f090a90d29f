"""Requests that wait at a live edge over simulated engines: who goes when, and what waiting costs.

Scenes, each with an edge of its own by `pointsman up`: tenants of which one offers ten times its share, tenants of
different weights, classes, a batch beside online requests, and a thousand requests that wait while clients leave, the
router is killed or HAProxy is reloaded. Clients are bare HTTP/1.1 connections of this process.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import signal
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import psutil

from bench.edge import measure_idle
from bench.ground import Ground, ground
from bench.load import quantile
from bench.pace import call_when_due, poisson
from bench.peers import say
from bench.queue_clients import Answer, Clients
from bench.queue_table import queue_table
from bench.report import Table, median
from bench.resident import resident_mb
from pointsman.haproxy.runtime_api import MasterAPI

SLOTS = 8
"""Requests that a replica serves at once before others wait."""

TOKENS = 50
TOKEN_MS = 20
NO_WEIGHTS: Mapping[str, float] = {}
MEASURED = ("router", "haproxy")
"""Parts of the edge whose memory and CPU are measured."""

GROUP = 10
"""Requests that are sent together."""

PATIENT = {"priority_header": "x-priority", "timeouts": {"processing_ms": 2000, "router_check_ms": 1000}}
"""Clients, engines and the edge share a machine, and a lookup that is late is not what is measured here."""


@dataclass(frozen=True)
class QueueOptions:
    """Lengths and numbers."""

    fair_s: float = 40.0
    shares_s: float = 60.0
    batch_s: float = 15.0
    batch_rounds: int = 5
    held: int = 1000
    leaving: int = 300
    classes: int = 90
    lookup: str = "spoe"
    scene: str = ""
    """The only scene that is played; empty: all."""

    @classmethod
    def quick(cls, **more: Any) -> QueueOptions:
        return cls(fair_s=20.0, shares_s=30.0, batch_s=10.0, batch_rounds=3, held=300, leaving=90, classes=45, **more)


def bounded(running: int = SLOTS, **more: Any) -> dict[str, Any]:
    """A policy by load under which requests wait."""
    return {"policy": "least_load", "admission": {"running": running, "wait_s": 300, "retry_after_s": 1, **more}}


async def at_random(per_s: float, seconds: float, send: Callable[[int], None], seed: str) -> None:
    """Calls `send` at random times for a while."""
    await call_when_due(poisson(per_s, seconds, random.Random(seed)), send)


def asking(clients: Clients, tenant: str, tokens: int, *, streams: bool = True) -> Callable[[int], None]:
    """Return the way to send the n-th request of a tenant, whose API key is its name."""
    headers = {"Authorization": f"Bearer {tenant}"}
    return lambda number: clients.start(f"{tenant} {number}", headers, tokens=tokens, streams=streams)


@asynccontextmanager
async def shared_edge(
    options: QueueOptions, tenants: Iterable[str], weights: Mapping[str, float] = NO_WEIGHTS
) -> AsyncIterator[tuple[Ground, Clients]]:
    """An edge with a key for each tenant, which is the tenant's name, over engines of a fixed pace."""
    with tempfile.TemporaryDirectory() as folder:
        keys = Path(folder) / "keys.map"
        keys.write_text("".join(f"{sha256(name.encode()).hexdigest()} {name}\n" for name in tenants))
        haproxy = PATIENT | {"api_keys_map": str(keys)}
        up: dict[str, Any] = {
            "engine": {"token_interval_ms": TOKEN_MS},
            "router": {"policy": bounded()},
            "haproxy": haproxy,
        }
        async with ground(replicas=2, lookup=options.lookup, **up) as here:
            for name, weight in weights.items():
                answer = await here.admin.put(f"/v1/tenants/{name}", json={"weight": weight})
                answer.raise_for_status()
            yield here, Clients(here.side.port)


CAPACITY = 2 * SLOTS / (TOKENS * TOKEN_MS / 1000)
"""Requests of `TOKENS` that two replicas serve a second."""


async def fairness(options: QueueOptions) -> dict[str, Any]:
    """Ten tenants at 1.3 of what the replicas can serve: one offers all of it alone, the others 0.3 together."""
    tenants = ["greedy", *(f"t{number}" for number in range(9))]
    async with shared_edge(options, tenants) as (_, clients):
        rates = dict.fromkeys(tenants, 0.3 * CAPACITY / 9) | {"greedy": CAPACITY}
        await asyncio.gather(
            *(at_random(per_s, options.fair_s, asking(clients, name, TOKENS), name) for name, per_s in rates.items())
        )
        asked = Counter(answer.label.split()[0] for answer in clients.answers)
        asked.update(label.split()[0] for label in clients.writers)
        served = Counter(a.label.split()[0] for a in clients.answers if a.status == 200)
        await clients.all_answered()
    return _fair_figures(clients.answers, asked, served, CAPACITY, options.fair_s)


WEIGHTS = {"a": 1.0, "b": 2.0, "c": 4.0}
WANTED = {"a": 0.3, "b": 0.45, "c": 0.65}
"""Demand of each tenant, of what the replicas can serve: more than its share, 1.4 together."""

OUTPUTS = {"a": 30, "b": 50, "c": 80}
"""Tokens of answers, so that equal numbers of requests are not equal shares."""


async def shares(options: QueueOptions) -> dict[str, Any]:
    """Three tenants of different weights that all want more than their shares: tokens served while they do."""
    async with shared_edge(options, WEIGHTS, WEIGHTS) as (_, clients):
        start_s = time.perf_counter()
        rates = {tenant: WANTED[tenant] * CAPACITY * TOKENS / OUTPUTS[tenant] for tenant in WEIGHTS}
        sends = {tenant: asking(clients, tenant, OUTPUTS[tenant], streams=False) for tenant in WEIGHTS}
        await asyncio.gather(*(at_random(rates[name], options.shares_s, sends[name], name) for name in WEIGHTS))
        answers = [a for a in clients.answers if a.status == 200 and a.end_s >= start_s + options.shares_s / 4]
        clients.leave(list(clients.writers))
        await clients.all_answered()
    served = Counter[str]()
    for answer in answers:
        served[answer.label.split()[0]] += answer.tokens
    weights, total = sum(WEIGHTS.values()), served.total()
    return {
        "tokens": dict(sorted(served.items())),
        "of_share": {name: served[name] / total / (weight / weights) for name, weight in WEIGHTS.items()},
    }


def _fair_figures(
    answers: list[Answer], asked: Counter[str], served: Counter[str], capacity: float, lasted_s: float
) -> dict[str, Any]:
    times = {
        kind: [a.ttft_ms for a in answers if a.status == 200 and a.label.startswith("greedy") is greedy]
        for kind, greedy in (("modest", False), ("greedy", True))
    }
    modest = sum(count for name, count in asked.items() if name != "greedy")
    return {
        "capacity_per_s": capacity,
        "offered": sum(asked.values()) / (capacity * lasted_s),
        "modest_asked": modest,
        "modest_served": sum(count for name, count in served.items() if name != "greedy"),
        "greedy_asked": asked["greedy"],
        "greedy_served": served["greedy"],
        "not_200": sum(a.status != 200 for a in answers),
        "ttft_ms": {kind: [quantile(of, 0.5), quantile(of, 0.99)] for kind, of in times.items()},
    }


async def classes(options: QueueOptions) -> dict[str, Any]:
    """Requests of three classes in any order, which go one at a time."""
    async with held_edge(options) as (here, clients):
        dice, sent = random.Random(3), []
        for number in range(options.classes):
            of = dice.choice(("batch", "low", "normal"))
            clients.start(f"{of} {number}", {"x-priority": of, "x-request-id": f"{of}-{number}"})
            sent.append((("normal", "low", "batch").index(of), number, of))
            await waiting(here, number + 1)
        clients.leave(["busy"])
        await clients.all_answered()
        went = await placed(here)
    expected = [f"{of}-{number}" for _, number, of in sorted(sent)]
    return {"requests": options.classes, "out_of_order": sum(a != b for a, b in zip(went, expected, strict=True))}


@asynccontextmanager
async def held_edge(options: QueueOptions) -> AsyncIterator[tuple[Ground, Clients]]:
    """An edge whose only replica serves one endless stream, so that all others wait."""
    router = {"policy": bounded(1), "limits": {"max_held": max(1024, options.held)}}
    engine = {"token_interval_ms": TOKEN_MS}
    async with ground(replicas=1, lookup=options.lookup, engine=engine, router=router, haproxy=PATIENT) as here:
        clients = Clients(here.side.port)
        clients.start("busy", tokens=100_000)

        async def busy() -> bool:
            return await here.metric("pointsman_in_flight") == 1

        await here.until("a request in flight", busy)
        yield here, clients


async def placed(here: Ground) -> list[str]:
    """Ids that clients gave to their requests, in the order in which the router placed these."""
    records = (await here.admin.get("/v1/decisions", params={"limit": 1000})).json()["decisions"]
    return [record["client_id"] for record in records[::-1] if "client_id" in record]


async def waiting(here: Ground, number: int) -> float:
    """Waits until so many requests wait; when that was."""

    async def held() -> bool:
        return await here.metric("pointsman_held") == number

    return await here.until(f"{number} held requests", held)


BATCH = {"x-priority": "batch"}
ONLINE_PER_S = 2.0
BATCH_WAITING = 20
"""A second, and at one time, for each replica."""

BATCH_POLICY = {"policy": "kv_cost"}
BATCH_KV_TOKENS = 32_768


async def batch_lane(options: QueueOptions, replicas: int) -> dict[str, Any]:
    """Online requests alone and with a batch beside them, by turns."""
    ttft_ms: dict[str, list[float]] = {"alone": [], "beside": []}
    rounds: list[tuple[float, float, float]] = []
    used: dict[str, list[float]] = {"alone": [], "beside": []}
    router = {"policy": BATCH_POLICY}
    async with ground(
        replicas=replicas,
        lookup=options.lookup,
        engine={
            "timing": "dense-h100",
            "kv_tokens": BATCH_KV_TOKENS,
            "max_model_len": BATCH_KV_TOKENS,
            "scheduling_policy": "priority",
        },
        router=router,
        haproxy=PATIENT,
    ) as here:
        clients, served = Clients(here.side.port), 0
        for turn in range(2 * options.batch_rounds):
            kind = ("alone", "beside")[turn % 2]
            clients.answers.clear()
            until_s = time.perf_counter() + options.batch_s

            def online(number: int) -> None:
                clients.start(f"online {turn}.{number}", tokens=60, words=1500)  # noqa: B023 -- used before the next

            feeding = asyncio.create_task(
                _feed(clients, replicas * BATCH_WAITING if kind == "beside" else 0, until_s, turn)
            )
            sampling = asyncio.create_task(_sample(here, replicas, used[kind], until_s))
            await at_random(replicas * ONLINE_PER_S, options.batch_s, online, f"online {turn // 2}")
            await asyncio.gather(feeding, sampling)
            clients.leave([label for label in clients.writers if label.startswith("batch")])
            await clients.all_answered()
            times = [a.ttft_ms for a in clients.answers if a.label.startswith("online") and a.first_s]
            ttft_ms[kind] += times
            rounds.append((quantile(times, 0.5), quantile(times, 0.9), quantile(times, 0.99)))
            served += sum(a.label.startswith("batch") and a.status == 200 for a in clients.answers)
    pairs = list(zip(rounds[::2], rounds[1::2], strict=True))
    return {
        "replicas": replicas,
        "ratios": [median([beside[at] / alone[at] for alone, beside in pairs]) for at in range(3)],
        "online_ttft_ms": {kind: [quantile(of, 0.5), quantile(of, 0.99)] for kind, of in ttft_ms.items()},
        "online_requests": {kind: len(of) for kind, of in ttft_ms.items()},
        "kv_use": {kind: sum(of) / max(1, len(of)) for kind, of in used.items()},
        "batch_served": served,
        "batch_s": options.batch_s * options.batch_rounds,
    }


async def _feed(clients: Clients, waiting: int, until_s: float, turn: int) -> None:
    """Keeps so many batch requests waiting or running."""
    number = 0
    while waiting and time.perf_counter() < until_s:
        while sum(label.startswith("batch") for label in clients.writers) < waiting:
            clients.start(f"batch {turn}.{number}", BATCH, tokens=600, words=300, streams=False)
            number += 1
            await asyncio.sleep(0)
        await asyncio.sleep(0.05)


async def _sample(here: Ground, replicas: int, used: list[float], until_s: float) -> None:
    """Notes the share of KV that the engines of all replicas have in use, from time to time."""
    while time.perf_counter() < until_s:
        used.append(await here.metric("pointsman_engine_kv_usage") / replicas)
        await asyncio.sleep(0.5)


async def waiting_many(options: QueueOptions) -> dict[str, Any]:
    """Many requests that wait: what they cost, whose clients leave, and in which order the others go."""
    async with held_edge(options) as (here, clients):
        before_mb = resident_mb(here.side.processes)
        await _hold(here, clients, options.held)
        spent_s = (await measure_idle([here.side], 10.0))[here.side.name]
        after_mb = resident_mb(here.side.processes)
        memory = {part: (after_mb[part] - before_mb[part]) * 2**20 / options.held for part in MEASURED}
        leaving = [f"r {number}" for number in range(0, options.held, options.held // options.leaving)][
            : options.leaving
        ]
        left_s = time.perf_counter()
        clients.leave(leaving)
        noticed_s = await waiting(here, options.held - len(leaving)) - left_s
        clients.leave(["busy"])
        await clients.all_answered()
        went = await placed(here)
    return {
        "held": options.held,
        "bytes_a_request": memory,
        "cpu_s_a_second": {part: spent_s[part] for part in MEASURED},
        "left": len(leaving),
        "all_noticed_after_s": noticed_s,
        "out_of_order": _out_of_order(went),
        "served": len(went),
    }


def _out_of_order(went: list[str]) -> int:
    """Requests that went before one of an earlier group: within one, nobody knows which reaches the router first."""
    groups = [int(label.rpartition("-")[2]) // GROUP for label in went]
    return sum(a > b for a, b in itertools.pairwise(groups))


async def _hold(here: Ground, clients: Clients, count: int) -> None:
    for number in range(count):
        clients.start(f"r {number}", {"x-request-id": f"r-{number}"})
        if number % GROUP == GROUP - 1:
            await waiting(here, number + 1)
    await waiting(here, count)


async def broken(options: QueueOptions, event: str) -> dict[str, Any]:
    """Many requests that wait while the router is killed, or HAProxy reloaded."""
    async with held_edge(options) as (here, clients):
        await _hold(here, clients, options.held)
        at_s = time.perf_counter()
        if event == "router killed":
            psutil.Process(here.pid(" router --config")).send_signal(signal.SIGKILL)
        else:
            assert here.side.run_dir is not None
            await MasterAPI(str(here.side.run_dir / "master.sock")).reload()
            await asyncio.sleep(3.0)
            clients.leave(["busy"])
        await clients.all_answered(besides="busy")
        lasted_s = max(answer.end_s for answer in clients.answers) - at_s
        clients.leave(list(clients.writers))
        await clients.all_answered()
        went = await placed(here) if event == "reload" else []
    answers = [answer for answer in clients.answers if answer.label != "busy"]
    return {
        "answers": dict(Counter(f"{answer.status} {answer.reason}" for answer in answers)),
        "last_answer_after_s": lasted_s,
        "out_of_order": _out_of_order(went),
    }


async def run_queueing(options: QueueOptions) -> tuple[list[Table], dict[str, Any]]:
    """All scenes, and their table."""
    figures: dict[str, Any] = {"options": asdict(options)}
    scenes: dict[str, Callable[[], Awaitable[dict[str, Any]]]] = {
        "fairness": lambda: fairness(options),
        "shares": lambda: shares(options),
        "classes": lambda: classes(options),
        "batch": lambda: batch_lane(options, 2),
        "batch of a fleet": lambda: batch_lane(options, 8),
        "waiting": lambda: waiting_many(options),
        "router killed": lambda: broken(options, "router killed"),
        "reload": lambda: broken(options, "reload"),
    }
    for name, scene in scenes.items():
        if options.scene in ("", name):
            say(f"queue: {name}")
            figures[name] = await scene()
    return [queue_table(figures)], figures
