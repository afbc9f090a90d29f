"""Times of a decision: `python -m bench.decide [--json] [--replicas 8 100 1000] [--keys 64 128]`.

Times `policy.rank` alone, on columns as the load table holds them: Poisson loads (mean 12), 256 sessions, half of them
pinned. Policies and sizes take turns round by round, so that a slow spell of the machine falls on all. Reported: the
median over rounds of the mean call, and in brackets the best round, which a busy machine disturbs least. Rings of
consistent_hash are timed apart: the first call after a change of membership pays for them, the others do not.

What goes by KV is timed on a fleet in the middle of its work too (bench/kv_fleet.py): `rank` alone, and the whole of
`Pipeline.decide` with reading the index, reserving and expecting, for the next turn of a conversation and for one that
begins.
"""

from __future__ import annotations

import copy
import random
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import numpy as np

from bench.form import by_turns, median_and_best, read_options, row, show
from bench.kv_fleet import KVFleet, make_fleet
from pointsman.policies.candidates import NO_SLOT, Candidates, KVArrays, KVSignals
from pointsman.policies.lib.ring import Rings
from pointsman.policies.policy import Context, Policy
from pointsman.policies.registry import build_policy
from pointsman.policies.request import RequestFeatures

SESSIONS = 256
MEAN_LOAD = 12

DOCUMENTS: dict[str, dict[str, Any]] = {
    "round_robin": {"policy": "round_robin"},
    "random": {"policy": "random"},
    "least_load": {"policy": "least_load"},
    "least_load by tokens": {"policy": "least_load", "by": "tokens"},
    "power_of_two": {"policy": "power_of_two"},
    "consistent_hash": {"policy": "consistent_hash"},
    "consistent_hash compat ray": {"policy": "consistent_hash", "compat": "ray"},
    "session_affinity": {"policy": "session_affinity"},
    "lora_affinity": {"policy": "lora_affinity"},
    "kv_cost": {"policy": "kv_cost"},
    "prefix_affinity": {"policy": "prefix_affinity"},
    "weighted": {"policy": "weighted"},
}


Row = dict[str, Any]
"""Times of one case, which its other fields name."""


def make_candidates(replicas: int) -> Candidates:
    """A fleet under Poisson load."""
    dice = np.random.default_rng(7)
    load = dice.poisson(MEAN_LOAD, replicas).astype(np.int64)
    return Candidates(
        membership=replicas,
        slots=np.arange(replicas, dtype=np.intp),
        ids=[f"replica-{i}" for i in range(replicas)],
        in_flight=load,
        in_flight_tokens=load * 1500 + dice.integers(0, 1500, replicas),
        kv=KVSignals(
            KVArrays(
                waiting=(waiting := dice.integers(0, 2000, replicas).astype(float)),
                prefill_ms=20 + 0.02 * waiting,
                base_ms=np.full(replicas, 20.0),
                per_token_ms=np.full(replicas, 0.02),
                per_square_ms=np.zeros(replicas),
                recompute_ms_per_token=np.full(replicas, 0.0224),
                footprint=(footprint := dice.integers(0, 300_000, replicas).astype(float)),
                capacity=np.full(replicas, 524_288.0),
                fill=footprint / 524_288,
            ),
            usage=0.3,
        ),
        prompt_tokens=4000,
    )


def lookups(replicas: int) -> list[tuple[RequestFeatures, Candidates]]:
    """One lookup a session, every second session pinned; all on the same columns."""
    dice = random.Random(3)
    fleet = make_candidates(replicas)
    requests = []
    for i in range(SESSIONS):
        candidates = copy.copy(fleet)
        candidates.pin = dice.randrange(replicas) if i % 2 else NO_SLOT
        requests.append((RequestFeatures(request_id=f"request-{i}", session=f"session-{i}"), candidates))
    return requests


def rank_us(policy: Policy, requests: list[tuple[RequestFeatures, Candidates]], context: Context) -> float:
    """Mean microseconds of a call over all the lookups."""
    started_ns = time.perf_counter_ns()
    for features, candidates in requests:
        policy.rank(features, candidates, context)
    return (time.perf_counter_ns() - started_ns) / len(requests) / 1000


def measure_ranking(sizes: list[int], rounds: int) -> list[Row]:
    """Microseconds of one `rank` call: the median round and the quietest."""
    context = Context(0.0, random.Random(1))
    fleets = {replicas: lookups(replicas) for replicas in sizes}
    policies = {label: build_policy(document) for label, document in DOCUMENTS.items()}
    for requests in fleets.values():
        for policy in policies.values():
            rank_us(policy, requests, context)  # builds the ring
    timings = by_turns(
        rounds,
        {
            (label, replicas): partial(rank_us, policy, fleets[replicas], context)
            for label, policy in policies.items()
            for replicas in sizes
        },
    )
    rows = []
    for (label, replicas), times in timings.items():
        median, best = median_and_best(times)
        rows.append({"policy": label, "replicas": replicas, "median_us": median, "best_us": best})
    return rows


def decide_us(fleet: KVFleet, asked: list[RequestFeatures], now_s: float) -> float:
    """Mean microseconds of `Pipeline.decide`; what it began is ended outside of the measured time."""
    started_ns = time.perf_counter_ns()
    for features in asked:
        fleet.pipeline.decide(features, now_s)
    took_us = (time.perf_counter_ns() - started_ns) / len(asked) / 1000
    fleet.undo(asked, now_s)
    return took_us


def rank_by_kv_us(fleet: KVFleet, asked: list[RequestFeatures], now_s: float) -> float:
    gathered = [fleet.pipeline.gather(features, now_s) for features in asked]
    context = Context(now_s, random.Random(1))
    rank = fleet.pipeline.policy.rank
    started_ns = time.perf_counter_ns()
    for features, candidates in zip(asked, gathered, strict=True):
        rank(features, candidates, context)
    return (time.perf_counter_ns() - started_ns) / len(asked) / 1000


def measure_deciding(sizes: list[int], chains: list[int], rounds: int) -> list[Row]:
    """Microseconds of one decision by KV: the median round and the quietest."""
    rows = []
    for replicas in sizes:
        for keys in chains:
            fleet = make_fleet(replicas, keys)
            for label, asked in (("turn", fleet.turns), ("begins", fleet.beginnings)):
                timed = {
                    "rank": [rank_by_kv_us(fleet, asked, 1.0) for _ in range(rounds)],
                    "decide": [decide_us(fleet, asked[at % 8 :: 8], 1.0) for at in range(rounds)],
                }
                made: Row = {"replicas": replicas, "keys": keys, "request": label}
                for part, times in timed.items():
                    made[f"{part}_median_us"], made[f"{part}_best_us"] = median_and_best(times, 1)
                rows.append(made)
    return rows


def measure_ring(replicas: int, rounds: int, virtual_nodes: int = 100) -> Row:
    """Median milliseconds until the first lookup after a change of membership.

    `cold_ms`: no replica's points are known; `one_joins_ms`: all but one replica's are.
    """
    full = make_candidates(replicas)
    all_but_one = copy.copy(full)
    all_but_one.membership, all_but_one.slots = replicas - 1, full.slots[1:]

    def once(prepare: Callable[[Rings], object]) -> float:
        rings = Rings(virtual_nodes)
        prepare(rings)
        started_ns = time.perf_counter_ns()
        rings.of(full)
        return (time.perf_counter_ns() - started_ns) / 1e6

    def after_one_less(rings: Rings) -> None:
        if len(all_but_one.slots):
            rings.of(all_but_one)

    cold = [once(lambda rings: None) for _ in range(rounds)]
    join = [once(after_one_less) for _ in range(rounds)]
    return {"replicas": replicas, "cold_ms": median_and_best(cold)[0], "one_joins_ms": median_and_best(join)[0]}


def table(options: Any, found: dict[str, list[Row]]) -> Iterable[str]:
    """Lines for people: policies alone, decisions by KV, rings."""
    sizes = [f"{replicas} replicas" for replicas in options.replicas]
    yield row("rank(), us: median (best)", sizes)
    for label in DOCUMENTS:
        timed = [one for one in found["rank_us"] if one["policy"] == label]
        yield row(label, ("{median_us:.1f} ({best_us:.1f})".format(**one) for one in timed))
    for keys in options.keys:
        for part in ("rank", "decide"):
            yield row(f"kv_cost {part}(), {keys} keys", sizes)
            for request in ("turn", "begins"):
                timed = [one for one in found["decide_us"] if (one["keys"], one["request"]) == (keys, request)]
                yield row(request, (f"{one[f'{part}_median_us']} ({one[f'{part}_best_us']})" for one in timed))
    yield row("ring of 100 points each, ms", sizes)
    yield row("from nothing", (f"{ring['cold_ms']:.2f}" for ring in found["ring_ms"]))
    yield row("one replica joins", (f"{ring['one_joins_ms']:.2f}" for ring in found["ring_ms"]))


def main(arguments: list[str] | None = None) -> None:
    options = read_options("decide", __doc__, arguments, replicas=[8, 100, 1000], keys=[64, 128], rounds=101)
    found = {
        "rank_us": measure_ranking(options.replicas, options.rounds),
        "decide_us": measure_deciding(options.replicas, options.keys, options.rounds),
        "ring_ms": [measure_ring(replicas, max(3, options.rounds // 10)) for replicas in options.replicas],
    }
    show(options.json, found, table(options, found), numpy=np.__version__)


if __name__ == "__main__":
    main()
