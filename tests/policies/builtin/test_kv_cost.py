"""Milliseconds decide: queue, miss, eviction, interference."""

from __future__ import annotations

import numpy as np
import pytest
from candidates import make_candidates, make_context, make_features, names

from pointsman.policies.builtin.kv_cost import FEW, KVCost
from pointsman.policies.candidates import Candidates, RemotePrefill
from pointsman.policies.decision import Reason
from pointsman.policies.registry import build_policy

INF = float("inf")


def make_policy(**config: object) -> KVCost:
    policy = build_policy({"policy": "kv_cost", **config})
    assert isinstance(policy, KVCost)
    return policy


def pressure(**shares: float) -> tuple[float, float]:
    """kappa and h while the fleet's KV is used by these shares."""
    kv = make_candidates(a=0).kv
    assert kv is not None
    for share, value in shares.items():
        setattr(kv, share, value)
    return make_policy().pressure(kv)


def ranking(fleet: Candidates, **config: object) -> list[tuple[str, Reason]]:
    ranked = make_policy(**config).rank(make_features("s"), fleet, make_context(limit=len(fleet)))
    return list(zip(names(ranked, fleet), [place.reason for place in ranked], strict=True))


def first(fleet: Candidates, **config: object) -> tuple[str, Reason]:
    return ranking(fleet, **config)[0]


def test_the_longest_resident_prefix_wins_on_an_idle_fleet() -> None:
    """T(8000 - 6000) = 60 ms against T(8000 - 2000) = 140 ms and T(8000) = 180 ms."""
    fleet = make_candidates([0, 0, 0], prompt=8000, resident={"r1": 6000, "r0": 2000})
    assert ranking(fleet) == [("r1", Reason.KV_PREFIX), ("r0", Reason.KV_PREFIX), ("r2", Reason.KV_COLD)]


def test_the_example_on_the_page() -> None:
    """60 ms at the holder against 180 elsewhere; with 7,000 tokens in front of it 160 + 60 = 220."""
    asked = {"prompt": 8000, "resident": {"a": 6000}}
    assert first(make_candidates(a=0, b=0, c=0, **asked))[0] == "a"
    assert first(make_candidates(a=0, b=0, c=0, kv={"waiting": [7000, 0, 0]}, **asked))[0] != "a"


@pytest.mark.parametrize(("waiting", "stays"), [(7000, True), (9000, False)])
def test_a_conversation_leaves_home_when_the_queue_costs_more_than_leaving(waiting: int, stays: bool) -> None:
    """Leaving costs T(10,000) - T(1,000) = 220 - 40 = 180 ms; 7,000 tokens in front cost 160 ms, 9,000 cost 200."""
    fleet = make_candidates(
        a=0, b=0, prompt=10_000, resident={"a": 9000}, keeper="a", home_tokens=9000,
        kv={"waiting": [waiting, 0], "capacity": [INF, INF]},
    )  # fmt: skip
    assert first(fleet) == (("a", Reason.KV_HOME) if stays else ("b", Reason.KV_MOVED))


def test_requests_in_flight_do_not_move_a_conversation() -> None:
    """Ten requests at home count 5 ms and hold up a prefill of 24 ms by its like; leaving costs 100 ms and more."""
    fleet = make_candidates(a=10, b=0, prompt=6000, resident={"a": 5800}, keeper="a", home_tokens=5800)
    assert first(fleet) == ("a", Reason.KV_HOME)


def test_a_miss_weighs_double_in_a_full_fleet() -> None:
    """The holder's queue of 70 ms is more than the 60 ms a miss costs in an idle fleet, and less than the 120 later."""
    asked = {"prompt": 3100, "resident": {"a": 3000}}
    queue = {"waiting": [2500, 0]}
    idle = make_candidates(a=0, b=0, **asked, kv={**queue, "footprint": [0, 0]})
    full = make_candidates(a=0, b=0, **asked, kv={**queue, "footprint": [80_000, 80_000]})
    assert first(idle)[0] == "b"
    assert first(full)[0] == "a"
    assert pressure(usage=0.0)[0] == 1.0
    assert pressure(usage=0.35)[0] == 1.5
    assert pressure(usage=0.9)[0] == 2.0


@pytest.mark.parametrize("others", [0, FEW])
def test_an_overloaded_fleet_keeps_prefixes_rather_than_queues_short(others: int) -> None:
    """30,000 tokens in front of the holder take 620 ms, more than a full fleet pays to compute 8,000 again. Where those
    under way alone want half as much KV again as there is, h is 1 + 16 * 0.5, and the prefix is worth the wait. Those
    who pause may want more, and change nothing."""
    ids = ["holder", "free", *(f"busy{at}" for at in range(others))]
    kept = {"waiting": [30_000, 0, *[900_000] * others], "footprint": [150_000] * len(ids)}

    def fleet(active_usage: float) -> Candidates:
        kv = {**kept, "active_usage": active_usage}
        return make_candidates(dict.fromkeys(ids, 0), prompt=9000, resident={"holder": 8000}, kv=kv)

    assert first(fleet(1.0))[0] == "free"
    assert first(fleet(1.5))[0] == "holder"
    assert first(fleet(1.5), overload=0.0)[0] == "free"
    assert first(fleet(1.5), overload_at=1.5)[0] == "free"
    assert (pressure(active_usage=1.0)[1], pressure(active_usage=1.5)[1]) == (1.0, 9.0)


def test_what_the_moment_pays_weighs_the_same_in_overload() -> None:
    """Queue and interference stay; miss, evict and tie weigh nine times as much."""
    policy, kept = make_policy(), {"waiting": [500], "footprint": [150_000]}
    calm, over = (
        policy.terms(make_features(), make_candidates(a=3, prompt=900, kv={**kept, "active_usage": active_usage}))
        for active_usage in (1.0, 1.5)
    )
    weighs = {term: float(over[term][0] / calm[term][0]) for term in calm}
    assert weighs == pytest.approx({"queue": 1.0, "miss": 9.0, "evict": 9.0, "interference": 1.0, "tie": 9.0})


def test_a_placement_that_evicts_live_conversations_pays_for_it() -> None:
    """92,000 of 100,000 tokens are kept on `full`: 5,000 more are 5,000 evicted, at 0.0224 ms each 112 ms."""
    fleet = make_candidates(full=0, roomy=0, prompt=5000, kv={"footprint": [92_000, 50_000], "waiting": [0, 3000]})
    terms = make_policy().terms(make_features(), fleet)
    assert terms["evict"].tolist() == pytest.approx([5000 * (20 / 8192 + 0.02), 0.0])
    assert first(fleet)[0] == "roomy"
    assert first(fleet, evict_weight=0.0, tie_fill=0.0)[0] == "full"


def test_a_conversation_at_home_evicts_only_by_what_it_adds() -> None:
    """It keeps 30,000 tokens there already; 31,000 are 1,000 more."""
    fleet = make_candidates(
        a=0, prompt=31_000, resident={"a": 29_000}, keeper="a", home_tokens=30_000,
        kv={"footprint": [91_500]},
    )  # fmt: skip
    assert make_policy().terms(make_features(), fleet)["evict"].tolist() == pytest.approx([500 * (20 / 8192 + 0.02)])


def test_a_replica_without_known_capacity_is_never_full() -> None:
    """Nothing counts as evicted there."""
    fleet = make_candidates(a=0, prompt=10**6, kv={"footprint": [10**9], "capacity": [INF]})
    terms = make_policy().terms(make_features(), fleet)
    assert (terms["evict"][0], terms["tie"][0]) == (0.0, 0.0)


def test_faster_replicas_draw_more() -> None:
    """The same cold prompt takes a third of the time there, until a queue makes up for it."""
    kv = {"per_token_ms": [0.02, 0.06]}
    assert first(make_candidates(fast=0, slow=0, prompt=5000, kv=kv))[0] == "fast"
    assert first(make_candidates(fast=0, slow=0, prompt=5000, kv={**kv, "waiting": [15_000, 0]}))[0] == "slow"


def test_near_equals_go_by_what_they_keep() -> None:
    """Conversations that begin fill the emptiest replica; equals are drawn."""
    assert first(make_candidates(a=0, b=0, c=0, kv={"footprint": [300, 100, 200]}))[0] == "b"
    fleet = make_candidates([0] * 4)
    policy, context = make_policy(), make_context(3)
    served = {policy.rank(make_features(), fleet, context)[0].slot for _ in range(60)}
    assert served == {0, 1, 2, 3}


def documented_terms(policy: KVCost, fleet: Candidates, slot: int) -> dict[str, float]:
    """The terms of one candidate, written as on the policy's page."""
    config, kv = policy.config, fleet.kv
    assert kv is not None
    kappa, h = policy.pressure(kv)
    requests, capacity, at_home = int(fleet.in_flight[slot]), kv.capacity[slot], slot == fleet.home
    uncached = max(1.0, fleet.prompt_tokens - fleet.resident.tokens(slot))
    queue, miss = float(kv.prefill_ms[slot]), kv.time_ms(slot, uncached)
    interference = config.interference * miss * requests
    remote = fleet.remote_prefill
    if remote is not None and remote.worthwhile(uncached, queue + miss):
        queue, miss, interference = remote.queue_ms, remote.miss_ms, 0.0
    kept = kv.footprint[slot] + (max(0, fleet.prompt_tokens - fleet.home_tokens) if at_home else uncached)
    evicted = min(uncached, max(0.0, kept - config.overflow_at * capacity))
    others = kv.footprint[slot] - (fleet.home_tokens if at_home else 0)
    return {
        "queue": queue,
        "miss": h * kappa * miss,
        "evict": h * config.evict_weight * kv.recompute_ms_per_token[slot] * evicted,
        "interference": interference,
        "tie": h * config.tie_ms * (requests + config.tie_fill * others / capacity),
    }


@pytest.mark.parametrize("replicas", [1, 5, FEW, FEW + 1, 40])
def test_score_and_terms_follow_the_documented_formula(replicas: int) -> None:
    """What explain shows is what decided: few candidates one by one, many as columns, by one formula."""
    dice = np.random.default_rng(replicas)
    for _ in range(30):
        slots = sorted(dice.choice(100, replicas, replace=False).tolist())
        ids = [f"r{at}" for at in range(replicas)]
        held = {str(one): int(dice.integers(1, 9000)) for one in dice.choice(ids, replicas // 2, replace=False)}
        fleet = make_candidates(
            dice.integers(0, 20, replicas).tolist(),
            slots=slots,
            prompt=int(dice.integers(1, 40_000)),
            resident=held,
            keeper=str(dice.choice(ids)) if dice.random() < 0.7 else None,
            home_tokens=int(dice.integers(0, 9000)),
            kv={
                "footprint": dice.integers(0, 120_000, replicas),
                "active_usage": dice.uniform(0.0, 2.0),
                "waiting": dice.integers(0, 9000, replicas),
                "per_token_ms": dice.uniform(0.01, 0.05, replicas),
            },
        )
        if dice.random() < 0.5:
            queue_ms, miss_ms = dice.uniform(0, 500, 2).tolist()
            fleet.remote_prefill = RemotePrefill(0, queue_ms, miss_ms, 1, int(dice.integers(0, 9000)), 2.0)
        policy = make_policy(evict_weight=0.7)
        ranked = policy.rank(make_features("s"), fleet, make_context(limit=replicas))
        terms = {name: column.tolist() for name, column in policy.terms(make_features("s"), fleet).items()}
        for at, slot in enumerate(fleet.slots.tolist()):
            expected = documented_terms(policy, fleet, slot)
            assert {name: column[at] for name, column in terms.items()} == pytest.approx(expected)
            [score] = [place.score for place in ranked if place.slot == slot]
            assert score == pytest.approx(sum(expected.values()))


@pytest.mark.parametrize("replicas", [2, FEW + 2])
def test_decode_replicas_that_compute_nothing_are_told_apart_by_load(replicas: int) -> None:
    """One holds 2,000 of 20,000 tokens and has a request more: alone it is soonest, paired it only decodes slower."""
    others = {f"o{at}": 6 for at in range(replicas - 1)}
    holder = {"holder": 7, **others}
    fleet = make_candidates(holder, prompt=20_000, resident={"holder": 2000})
    assert first(fleet)[0] == "holder"
    fleet.remote_prefill = RemotePrefill(99, 0.0, 430.0, 20_000, 1000, 3.0)
    assert first(fleet)[0] != "holder"


@pytest.mark.parametrize("replicas", [2, FEW + 2])
def test_room_in_the_kv_tells_decode_replicas_apart_too(replicas: int) -> None:
    """Fetched KV needs as much room as computed KV: what would evict the living goes last."""
    ids = [f"r{at}" for at in range(replicas)]
    fleet = make_candidates(
        dict.fromkeys(ids, 0), prompt=20_000, kv={"footprint": [99_000] * (replicas - 1) + [40_000]}
    )
    fleet.remote_prefill = RemotePrefill(99, 0.0, 430.0, 20_000, 1000, 3.0)
    assert first(fleet)[0] == ids[-1]


@pytest.mark.parametrize(("queue_ms", "expected"), [(0.0, "free"), (900.0, "holder")])
def test_a_holder_is_weighed_against_the_best_pair(queue_ms: float, expected: str) -> None:
    """500 tokens left behind a queue of 15,000, or all of 8,000 on a prefill replica and a free decode replica."""
    fleet = make_candidates(
        {"holder": 0, "free": 0}, prompt=8000, resident={"holder": 7500}, kv={"waiting": [15_000, 0]}
    )
    fleet.remote_prefill = RemotePrefill(99, queue_ms, 90.0, 8000, 1000, 100.0)
    assert first(fleet)[0] == expected


def test_admission_refuses_only_conversations_that_begin() -> None:
    """With 0.9 of 200,000 tokens in live use a first turn gets 429 and is told when to return; others pass."""
    policy = make_policy(admission={"limit": 0.9, "retry_after_s": 7})
    kept = {"footprint": [95_000, 84_500]}
    refusal = policy.admit(make_features("s"), make_candidates(a=0, b=0, prompt=600, kv=kept), make_context())
    assert refusal is not None
    assert (refusal.reason, refusal.status, refusal.retry_after_s) == (Reason.ADMISSION, 429, 7)
    for passes in (
        make_candidates(a=0, b=0, prompt=600, kv=kept, keeper="a"),
        make_candidates(a=0, b=0, prompt=400, kv=kept),
        make_candidates(a=0, b=0, prompt=600, kv={**kept, "capacity": [100_000, INF]}),
    ):
        assert policy.admit(make_features("s"), passes, make_context()) is None
    assert make_policy().admit(make_features("s"), make_candidates(a=0, prompt=10**9), make_context()) is None


@pytest.mark.parametrize(
    ("prompt", "waiting", "keeper", "expected"),
    [
        pytest.param(600, False, None, 5.0, id="no room"),
        pytest.param(400, False, None, None, id="room"),
        pytest.param(400, True, None, 5.0, id="room, but others wait"),
        pytest.param(600, True, "a", None, id="under way, whoever waits"),
        pytest.param(200_000, False, None, 0.0, id="never room"),
    ],
)
def test_conversations_that_begin_wait_for_room(
    prompt: int, waiting: bool, keeper: str | None, expected: float | None
) -> None:
    """In the order they came, and not for what no end of others can make room for."""
    policy = make_policy(admission={"limit": 0.9, "wait_s": 5.0})
    fleet = make_candidates(a=0, b=0, prompt=prompt, kv={"footprint": [95_000, 84_500]}, keeper=keeper)
    refusal = policy.admit(make_features("s"), fleet, make_context(waiting=waiting))
    assert (None if refusal is None else refusal.wait_s) == expected


def test_a_prompt_that_evicts_nobody_is_admitted() -> None:
    """On a fleet that keeps nothing for others, also where it exceeds the limit alone."""
    policy = make_policy(admission={"limit": 0.9})
    fleet = make_candidates(a=0, b=0, prompt=190_000)
    assert policy.admit(make_features("s"), fleet, make_context()) is None


def test_silent_conversations_refuse_nobody_while_nothing_is_known_of_them() -> None:
    """KV that may never be asked for again is full; the half of it that is being asked for leaves room."""
    policy = make_policy(admission={"limit": 0.9})
    fleet = make_candidates(a=0, b=0, prompt=600, kv={"footprint": [95_000, 95_000]})
    assert policy.admit(make_features("s"), fleet, make_context()) is not None
    assert fleet.kv is not None
    for certainty in (0.5, 0.0):
        fleet.kv.certainty = certainty
        assert policy.admit(make_features("s"), fleet, make_context()) is None


def test_without_a_wait_nobody_stands_in_line() -> None:
    """Those who wait were told so by another policy; what this one has room for, it admits."""
    policy = make_policy(admission={"limit": 0.9})
    assert policy.admit(make_features("s"), make_candidates(a=0), make_context(waiting=True)) is None
