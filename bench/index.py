"""Memory and times of the prefix index: `python -m bench.index [--json] [--keys 1000000]`.

Memory is what tracemalloc counts (all of it Python objects) with every key held by one replica of 100, and by two of
1,000. Events are confirmations and evictions in equal parts on the full index. Matches are prompts of 64 and 128 keys:
`shared`, where every replica holds the first eighth and the conversation's home all of it, as under agents with one
system prompt; `cold`, where nobody holds anything; `ragged`, where every replica dropped out at a place of its own,
which is the worst there is. All prompts lie in the full index, so the processor's caches help as little as in life.
"""

from __future__ import annotations

import gc
import random
import time
import tracemalloc
from typing import Any

from bench.form import median_and_best, read_options, row, show
from bench.peers import say
from pointsman.router.kv.prefix_index import PrefixIndex

PROMPTS = 256
ROUNDS = 15


def make_index(replicas: int, max_keys: int) -> PrefixIndex:
    index = PrefixIndex(max_keys=max_keys)
    for slot in range(replicas):
        index.add_slot(slot)
    return index


def filled(replicas: int, keys: int, holders: int) -> PrefixIndex:
    """An index of random keys, each held by `holders` random replicas."""
    dice = random.Random(1)
    index = make_index(replicas, keys)
    for _ in range(keys):
        key = dice.getrandbits(64)
        for _ in range(holders):
            index.stored(dice.randrange(replicas), key)
    return index


def memory_mb(replicas: int, keys: int, holders: int) -> float:
    tracemalloc.start()
    index = filled(replicas, keys, holders)
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert len(index) == keys
    return held / 1e6


def events_per_s(index: PrefixIndex, replicas: int) -> float:
    dice = random.Random(2)
    events = [(dice.randrange(replicas), dice.getrandbits(64)) for _ in range(50_000)]
    started_ns = time.perf_counter_ns()
    for slot, key in events:
        index.stored(slot, key)
    for slot, key in events:
        index.evicted(slot, key)
    return 2 * len(events) / ((time.perf_counter_ns() - started_ns) / 1e9)


def prompts(index: PrefixIndex, kind: str, replicas: int, keys: int) -> list[tuple[int, ...]]:
    dice = random.Random(3)
    head = [dice.getrandbits(64) for _ in range(keys // 8)]
    made = []
    for _ in range(PROMPTS):
        prompt = (*head, *(dice.getrandbits(64) for _ in range(keys - len(head))))
        if kind == "shared":
            home = dice.randrange(replicas)
            for key in prompt:
                index.stored(home, key)
            for slot in range(replicas):
                for key in head:
                    index.stored(slot, key)
        made.append(prompt)
    if kind == "ragged":
        made = made[:1] * PROMPTS
        for slot in range(replicas):
            for key in made[0][: dice.randrange(1, keys)]:
                index.stored(slot, key)
    return made


def match_us(index: PrefixIndex, asked: list[tuple[int, ...]]) -> tuple[float, float]:
    """Microseconds of one match: median and best round."""
    times = []
    for _ in range(ROUNDS):
        started_ns = time.perf_counter_ns()
        for keys in asked:
            index.match(keys)
        times.append((time.perf_counter_ns() - started_ns) / len(asked) / 1000)
    return median_and_best(times)


def measure(keys: int) -> dict[str, Any]:
    memory = {
        "one holder of 100": round(memory_mb(100, keys, 1), 1),
        "two holders of 1000": round(memory_mb(1000, keys, 2), 1),
    }
    index = filled(100, keys, 1)
    gc.collect()
    gc.freeze()
    rate = round(events_per_s(index, 100))
    matches = []
    for replicas in (8, 100, 1000):
        say(f"index: matches of {replicas} replicas")
        for chain in (64, 128):
            for kind in ("shared", "cold", "ragged"):
                index = filled(replicas, keys, 1)
                median, best = match_us(index, prompts(index, kind, replicas, chain))
                matches.append(
                    {"replicas": replicas, "keys": chain, "kind": kind, "median_us": median, "best_us": best}
                )
    return {"keys": keys, "memory_mb": memory, "events_per_s": rate, "match_us": matches}


def main(arguments: list[str] | None = None) -> None:
    options = read_options("index", __doc__, arguments, keys=1_000_000)
    found = measure(options.keys)
    rate = found["events_per_s"]
    lines = [row(f"{options.keys} keys, {label}", [f"{mb} MB"]) for label, mb in found["memory_mb"].items()]
    lines.append(f"events on the full index: {rate} a second, {10_000 / rate:.1%} of a core at 10,000 a second")
    lines += [
        "match, {replicas} replicas, {keys} keys, {kind}: {median_us} us ({best_us})".format(**one)
        for one in found["match_us"]
    ]
    show(options.json, found, lines)


if __name__ == "__main__":
    main()
