"""CPU that usage costs the router for each request: the engine's report, HAProxy's line, what both add to decode."""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import msgspec

from bench.edge import PATH
from bench.report import Table, spread
from bench.spop_load import end_line, request_id
from pointsman.contract.events import EngineEvents, RequestUsage
from pointsman.contract.registration import Registration
from pointsman.policies.request import RequestFeatures
from pointsman.router.core import Core
from pointsman.router.requests.end_line import decode_line

BATCH = 8
"""Reports in one message of an engine."""

FIELDS = {"sse": "1", "tenant": "acme", "key": "k1"}
"""Fields that usage adds to a line where there are API keys."""

PARTS = ("line decode", "message decode", "line", "report")

T = TypeVar("T")


@dataclass(frozen=True)
class UsageOptions:
    """Length of the bench."""

    requests: int = 20_000
    """Requests of a round."""
    rounds: int = 7

    @classmethod
    def quick(cls) -> UsageOptions:
        return cls(rounds=2)


def decided(ids: list[str]) -> Core:
    """A router with these requests in flight on one replica."""
    core = Core({"policy": "least_load"}, rng=random.Random(1))
    core.replicas.put("r0", Registration(url="http://10.0.0.1:1", model="m"), ("10.0.0.1", 1), 0.0)
    core.engine_events("r0", EngineEvents(epoch="e", seq=0, snapshot=True, capacity_tokens=500_000), 0.0)
    for name in ids:
        core.decide(RequestFeatures(request_id=name, path=PATH, model="m", tenant="acme", body_bytes=2000), 0.0)
    return core


def seconds(work: Callable[[T], object], items: Iterable[T]) -> float:
    """Time that the work takes for all items, one after the other."""
    began_s = time.perf_counter()
    for item in items:
        work(item)
    return time.perf_counter() - began_s


def measure(requests: int) -> list[float]:
    """Microseconds a request, by part."""
    ids = [request_id(number) for number in range(requests)]
    usage, numbers = decided(ids).usage, range(0, requests, BATCH)
    messages = [
        EngineEvents(
            epoch="e",
            seq=number,
            usage=[RequestUsage(name, 500, 100, 50, 1000.0) for name in ids[number : number + BATCH]],
            usage_from=number,
        )
        for number in numbers
    ]
    decode_message = msgspec.msgpack.Decoder(EngineEvents).decode
    with_usage = [msgspec.msgpack.encode(message) for message in messages]
    without = [msgspec.msgpack.encode(EngineEvents(epoch="e", seq=number)) for number in numbers]
    long, short = (
        [end_line(number, "r0", **more).partition(b" ")[2] for number in range(requests)] for more in (FIELDS, {})
    )
    lines = [decode_line(raw) for raw in long]
    gc.collect()
    gc.disable()
    spent_s = [
        seconds(decode_line, long) - seconds(decode_line, short),
        seconds(decode_message, with_usage) - seconds(decode_message, without),
        seconds(lambda line: usage.ended(line, 0, 0.0), lines),
        seconds(lambda message: usage.report(0, "r0", message, 0.0), messages),
    ]
    gc.enable()
    assert sum(row.prompt_tokens for row in usage.ledger) == 500 * requests
    return [1e6 * part_s / requests for part_s in spent_s]


def table(rounds: list[list[float]], options: UsageOptions) -> Table:
    """Costs by part, and of all together."""
    rows = [
        [name, f"{min(costs_us):.2f}", spread(costs_us, 2)]
        for name, costs_us in zip(PARTS, zip(*rounds, strict=True), strict=True)
    ]
    least_us = sum(min(costs_us) for costs_us in zip(*rounds, strict=True))
    rows.append(["all", f"{least_us:.2f}", spread([sum(parts) for parts in rounds], 2)])
    return Table(
        "What usage costs a router",
        ["part", "least, us a request", "median (range)"],
        rows,
        [f"{options.rounds} rounds of {options.requests:,} requests, in one process and without sockets"],
    )


async def run_usage(options: UsageOptions) -> tuple[list[Table], dict[str, Any]]:
    """The whole bench."""
    rounds = [measure(options.requests) for _ in range(options.rounds)]
    return [table(rounds, options)], {"options": asdict(options), "parts": PARTS, "rounds_us": rounds}
