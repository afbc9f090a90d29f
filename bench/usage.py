"""CPU that usage costs the router for each request: the engine's report, HAProxy's line, and what both add to decode.

python -m bench.usage
"""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable

import msgspec

from pointsman.contract.events import EngineEvents, RequestUsage
from pointsman.contract.registration import Registration
from pointsman.policies.request import RequestFeatures
from pointsman.router.core import Core
from pointsman.router.requests.end_line import decode_line

REQUESTS = 20_000
BATCH = 8
"""Reports in one message of an engine."""

ROUNDS = 7
PATH = "/v1/chat/completions"
LINE = (
    '{"ev":"end","id":"%s","pid":1,"srv":"r0","first":"r0","reason":"kv-cold","st":200,"tw":0,"tc":0,"tr":20,"ta":300,'
    '"ttft":"-","bytes":9000,"ts":"--","rc":"0","routed":"1","cid":"-"%s}'
)
FIELDS = ',"sse":"1","tenant":"acme","key":"k1"'
"""Fields that usage adds to a line where there are API keys."""

PARTS = ("line decode", "message decode", "line", "report")


def decided(ids: list[str]) -> Core:
    """A router with these requests in flight on one replica."""
    core = Core({"policy": "least_load"}, rng=random.Random(1))
    core.replicas.put("r0", Registration(url="http://10.0.0.1:1", model="m"), ("10.0.0.1", 1), 0.0)
    core.engine_events("r0", EngineEvents(epoch="e", seq=0, snapshot=True, capacity_tokens=500_000), 0.0)
    for name in ids:
        core.decide(RequestFeatures(request_id=name, path=PATH, model="m", tenant="acme", body_bytes=2000), 0.0)
    return core


def seconds(work: Callable[[], object]) -> float:
    began_s = time.perf_counter()
    work()
    return time.perf_counter() - began_s


def measure() -> list[float]:
    """Microseconds a request, by part."""
    ids = [f"q{number:032d}" for number in range(REQUESTS)]
    usage, numbers = decided(ids).usage, range(0, REQUESTS, BATCH)
    messages = [
        EngineEvents(
            epoch="e",
            seq=number,
            usage=[RequestUsage(name, 500, 100, 50, 1000.0) for name in ids[number : number + BATCH]],
            usage_from=number,
        )
        for number in numbers
    ]
    decoder = msgspec.msgpack.Decoder(EngineEvents)
    with_usage = [msgspec.msgpack.encode(message) for message in messages]
    without = [msgspec.msgpack.encode(EngineEvents(epoch="e", seq=number)) for number in numbers]
    long, short = ([(LINE % (name, more)).encode() for name in ids] for more in (FIELDS, ""))
    lines = [decode_line(raw) for raw in long]
    gc.collect()
    gc.disable()
    spent = [
        seconds(lambda: [decode_line(raw) for raw in long]) - seconds(lambda: [decode_line(raw) for raw in short]),
        seconds(lambda: [decoder.decode(raw) for raw in with_usage])
        - seconds(lambda: [decoder.decode(raw) for raw in without]),
        seconds(lambda: [usage.ended(line, 0, 0.0) for line in lines]),  # type: ignore[func-returns-value]
        seconds(lambda: [usage.report(0, "r0", message, 0.0) for message in messages]),
    ]
    gc.enable()
    assert sum(row.prompt_tokens for row in usage.ledger) == 500 * REQUESTS
    return [1e6 * part / REQUESTS for part in spent]


def main() -> None:
    """Print the least of some rounds."""
    best = [min(parts) for parts in zip(*(measure() for _ in range(ROUNDS)), strict=True)]
    for name, cost_us in zip(PARTS, best, strict=True):
        print(f"{name:15} {cost_us:5.2f} us a request")
    print(f"{'all':15} {sum(best):5.2f} us a request")


if __name__ == "__main__":
    main()
