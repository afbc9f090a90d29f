"""Where requests go in the long run, with the arithmetic."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
from candidates import make_candidates, make_context, make_features

from pointsman.policies.candidates import NO_SLOT, Candidates
from pointsman.policies.registry import build_policy

FIVE_SIGMA = 5


def shares(document: dict[str, Any], fleet: Candidates, requests: int) -> Counter[str]:
    """First choices for keyless requests on loads that stay as they are."""
    policy, context = build_policy(document), make_context(11)
    return Counter(fleet.ids[policy.rank(make_features(), fleet, context)[0].slot] for _ in range(requests))


def tolerance(requests: int, share: float) -> float:
    """Five standard deviations of a binomial count: one seeded draw in a million would fall outside."""
    return FIVE_SIGMA * math.sqrt(requests * share * (1 - share))


@pytest.mark.parametrize(
    "name",
    [
        "random",
        "least_load",
        "power_of_two",
        "consistent_hash",
        "session_affinity",
        "kv_cost",
        "prefix_affinity",
        "lora_affinity",
        "weighted",
    ],
)
def test_an_idle_fleet_is_served_evenly(name: str) -> None:
    """Keyless requests on an idle fleet reach all replicas alike, whatever the policy."""
    # 8,000 requests on 8 replicas: 1,000 each, standard deviation sqrt(8000 * 1/8 * 7/8) = 29.6.
    served = shares({"policy": name}, make_candidates([0] * 8), 8000)
    assert len(served) == 8
    assert all(abs(count - 1000) < tolerance(8000, 1 / 8) for count in served.values())


def test_round_robin_is_exactly_even() -> None:
    """Turns, not draws: 8,000 requests on 8 replicas are 1,000 each, to the request."""
    assert set(shares({"policy": "round_robin"}, make_candidates([5, 0, 0, 1, 2, 0, 9, 0]), 8000).values()) == {1000}


def test_random_does_not_look_at_load() -> None:
    """A third each, though one replica is swamped."""
    served = shares({"policy": "random"}, make_candidates(a=0, b=0, swamped=99), 9000)
    assert all(abs(count - 3000) < tolerance(9000, 1 / 3) for count in served.values())


def test_power_of_two_never_serves_the_single_busiest_of_three() -> None:
    """Two distinct draws out of three: the busy replica always meets an idle one and loses, so 0 %."""
    served = shares({"policy": "power_of_two"}, make_candidates(a=0, b=0, busy=1), 6000)
    assert set(served) == {"a", "b"}
    assert abs(served["a"] - 3000) < tolerance(6000, 1 / 2)


def test_power_of_two_with_two_busy_of_four() -> None:
    """A busy replica wins only when both draws are busy: 1 of the 6 pairs, so 1/12 each; an idle one gets 5/12."""
    served = shares({"policy": "power_of_two"}, make_candidates(a=0, b=0, busy1=3, busy2=3), 12_000)
    for replica, share in {"a": 5 / 12, "b": 5 / 12, "busy1": 1 / 12, "busy2": 1 / 12}.items():
        assert abs(served[replica] - 12_000 * share) < tolerance(12_000, share)


def test_least_load_fills_valleys() -> None:
    """Work that stays where it is put levels the fleet: 3 + 2 requests lift loads of 0, 1, 3, 3 to 3 each."""
    fleet = make_candidates(a=0, b=1, c=3, d=3)
    policy, context = build_policy({"policy": "least_load"}), make_context()
    for _ in range(5):
        fleet.in_flight[policy.rank(make_features(), fleet, context)[0].slot] += 1
    assert fleet.in_flight.tolist() == [3, 3, 3, 3]


def busiest(load_factor: float | None) -> int:
    """The largest load when 160 sessions on 20 replicas each have one request in flight."""
    fleet = make_candidates([0] * 20)
    policy, context = build_policy({"policy": "consistent_hash", "load_factor": load_factor}), make_context()
    for number in range(160):
        fleet.in_flight[policy.rank(make_features(f"session-{number}"), fleet, context)[0].slot] += 1
    return int(fleet.in_flight.max())


def test_the_bound_bounds() -> None:
    """Nobody carries more than ceil(1.25 * 160 / 20) = 10 of a mean of 8; without a bound somebody does."""
    assert busiest(1.0) == 8
    assert busiest(1.25) == 10
    assert busiest(None) > 10


def test_ring_shares_follow_the_points() -> None:
    """The more points, the more even: the spread of shares goes down with the square root of their number."""
    # Shares of n = 8 replicas with v points: standard deviation about 1 / (n sqrt(v)), relative to 1/n: 1 / sqrt(v).
    spread = {}
    for points in (10, 1000):
        document = {"policy": "consistent_hash", "load_factor": None, "virtual_nodes": points}
        policy, fleet, context = build_policy(document), make_candidates([0] * 8), make_context()
        served = np.zeros(8)
        for number in range(20_000):
            served[policy.rank(make_features(f"session-{number}"), fleet, context)[0].slot] += 1
        spread[points] = float(served.std() / served.mean())
    # 1 / sqrt(10) = 0.32 and 1 / sqrt(1000) = 0.032; the latter plus the noise of counting, sqrt(8 / 20000) = 0.02.
    assert 0.1 < spread[10] < 0.6
    assert spread[1000] < 0.08


def test_pinned_sessions_stay_and_newcomers_fill_up() -> None:
    """800 turns of 40 sessions on 8 replicas, the pipeline's pinning played here: 5 homes each, no session moves."""
    fleet = make_candidates([0] * 8)
    policy, context = build_policy({"policy": "session_affinity"}), make_context()
    homes: dict[str, int] = {}
    for turn in range(800):
        session = f"session-{turn % 40}"
        fleet.pin = homes.get(session, NO_SLOT)
        first = policy.rank(make_features(session), fleet, context)[0].slot
        # All 40 first turns are in flight together and none of the later ones, as if each of those ended at once.
        if session not in homes:
            fleet.in_flight[first] += 1
        assert homes.setdefault(session, first) == first
    assert set(Counter(homes.values()).values()) == {5}


def test_an_adapter_is_spread_over_all_that_have_it_loaded() -> None:
    """Two of six hold it: a half each, and nothing elsewhere."""
    # 2,000 requests: 1,000 each, standard deviation sqrt(2000 / 4) = 22.4.
    served = shares({"policy": "lora_affinity"}, make_candidates([0] * 6, adapter=["r1", "r4"]), 2000)
    assert served.keys() == {"r1", "r4"}
    assert abs(served["r1"] - 1000) < tolerance(2000, 1 / 2)


def test_a_busy_adapter_spreads_as_far_as_its_load_needs() -> None:
    """One holder takes all of a quiet stream; under load it keeps to its bound of the mean, and others load it too."""
    policy = build_policy({"policy": "lora_affinity", "load_factor": 1.25, "load_slack": 8})
    context, load = make_context(3), [0] * 4
    holders: set[int] = set()
    for _ in range(400):
        fleet = make_candidates(load, adapter=[f"r{slot}" for slot in holders])
        slot = policy.rank(make_features(), fleet, context)[0].slot
        holders.add(slot)
        load[slot] += 1
        if sum(load) <= 9:
            # Up to the slack of 8, and the one that finds it there: 9.
            assert len(holders) == 1
    # 400 requests on 4: a mean of 100, none above 1.25 times what the mean was when it was placed.
    assert len(holders) == 4
    assert max(load) <= 1.25 * 100 + 1
