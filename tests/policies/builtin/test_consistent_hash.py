"""A session's replica by hash, bounded by load. The ring itself is in test_ring.py."""

from __future__ import annotations

import math
from collections import Counter
from fractions import Fraction

import pytest
from candidates import make_candidates, make_context, make_features, names
from hypothesis import given
from hypothesis import strategies as st
from plain_ring import PlainRing

from pointsman.policies.builtin.consistent_hash import ConsistentHash
from pointsman.policies.candidates import Candidates
from pointsman.policies.decision import Ranked, Reason
from pointsman.policies.policy import Needs
from pointsman.policies.registry import build_policy

FLEET = [f"replica-{i}" for i in range(8)]


def consistent_hash(**config: object) -> ConsistentHash:
    policy = build_policy({"policy": "consistent_hash", **config})
    assert isinstance(policy, ConsistentHash)
    return policy


def rank(policy: ConsistentHash, session: str, fleet: Candidates, *, limit: int = 2) -> list[Ranked]:
    return policy.rank(make_features(session), fleet, make_context(limit=limit))


def test_idle_fleet_follows_the_ring() -> None:
    """With nothing in flight nobody is full: first and second are the key's owner and the next distinct replica."""
    policy, plain, fleet = consistent_hash(), PlainRing(FLEET, 100), make_candidates(dict.fromkeys(FLEET, 0))
    for number in range(200):
        ranked = rank(policy, f"s{number}", fleet)
        assert names(ranked, fleet) == plain.successors(f"s{number}")[:2]
        assert {place.reason for place in ranked} == {Reason.HASH}


def test_a_full_home_spills_to_the_next_on_the_ring() -> None:
    """The home over its bound is passed by, the next distinct replica with room serves, and the reason says so."""
    policy, plain = consistent_hash(), PlainRing(FLEET, 100)
    home, following, third = plain.successors("s")[:3]
    # 4 + 3 + 3 + 5 * 2 = 20 in flight on 8: ceil(1.25 * 21 / 8) = ceil(3.28) = 4. Only the home carries 4.
    fleet = make_candidates(dict.fromkeys(FLEET, 2) | {home: 4, following: 3, third: 3})
    ranked = rank(policy, "s", fleet)
    assert names(ranked, fleet) == [following, third]
    assert ranked[0].reason is Reason.HASH_SPILL


def test_bound_counts_the_request_itself() -> None:
    """`ceil(load_factor * (total + 1) / n)`: the values by hand."""
    policy = consistent_hash()
    assert policy.bound(0, 8) == 1  # 1.25 * 1 / 8 = 0.16
    assert policy.bound(7, 8) == 2  # 1.25 * 8 / 8 = 1.25
    assert policy.bound(31, 8) == 5  # 1.25 * 32 / 8 = 5, exactly
    assert policy.bound(32, 8) == 6  # 1.25 * 33 / 8 = 5.16
    assert policy.bound(99, 1) == 125
    assert consistent_hash(min_bound=16).bound(7, 8) == 16


def test_bound_is_exact_for_decimals() -> None:
    """1.1 * 50 is 55, though in binary floats it is a little more."""
    assert math.ceil(1.1 * 50) == 56
    assert consistent_hash(load_factor=1.1).bound(49, 1) == 55


@given(
    loads=st.lists(st.integers(0, 30), min_size=1, max_size=12),
    factor=st.sampled_from([1.0, 1.1, 1.25, 2.0]),
    session=st.text(min_size=1, max_size=5),
)
def test_nobody_is_sent_more_than_the_bound(loads: list[int], factor: float, session: str) -> None:
    """Whatever the load somebody is open, and whoever is chosen stays within the bound with this request."""
    fleet = make_candidates(loads)
    chosen = rank(consistent_hash(load_factor=factor), session, fleet)[0].slot
    bound = math.ceil(Fraction(str(factor)) * (sum(loads) + 1) / len(loads))
    assert loads[chosen] + 1 <= bound


def test_full_replicas_are_ranked_last() -> None:
    """A full replica is still a better second than none: it comes after all open ones, at least one turn further."""
    fleet = make_candidates(a=10, b=0, c=10)
    ranked = rank(consistent_hash(), "s", fleet, limit=3)
    assert names(ranked, fleet)[0] == "b"
    assert ranked[0].score < 300 <= ranked[1].score <= ranked[2].score


def test_min_bound_keeps_a_quiet_fleet_from_spilling() -> None:
    """A session's second concurrent request leaves an otherwise idle fleet's home only without a least bound."""
    home = PlainRing(FLEET, 100).successors("s")[0]
    fleet = make_candidates(dict.fromkeys(FLEET, 0) | {home: 1})
    assert rank(consistent_hash(), "s", fleet)[0].reason is Reason.HASH_SPILL
    ranked = rank(consistent_hash(min_bound=4), "s", fleet)
    assert names(ranked, fleet)[0] == home
    assert ranked[0].reason is Reason.HASH


@pytest.mark.parametrize("config", [{"compat": "ray"}, {"load_factor": None}])
def test_unbounded_ignores_load(config: dict[str, object]) -> None:
    """Without a bound the ring alone decides, as Ray does."""
    policy, plain = consistent_hash(**config), PlainRing(FLEET, 100)
    fleet = make_candidates({replica: 50 * i for i, replica in enumerate(FLEET)})
    for number in range(100):
        ranked = rank(policy, f"s{number}", fleet, limit=8)
        assert names(ranked, fleet) == plain.successors(f"s{number}")
        assert {place.reason for place in ranked} == {Reason.HASH}
    with pytest.raises(ValueError, match="no load bound"):
        policy.bound(0, 8)


def test_ray_compatibility_takes_a_bound_if_told_to() -> None:
    """`compat: ray` changes the default of the bound, not what can be configured."""
    assert consistent_hash(compat="ray").describe()["load_factor"] is None
    assert consistent_hash(compat="ray", load_factor=1.5).describe()["load_factor"] == 1.5
    assert consistent_hash().describe()["load_factor"] == 1.25


def test_a_leaver_moves_only_its_own_keys() -> None:
    """With one of eight gone each of its keys moves, about an eighth of all, and no other does."""
    policy = consistent_hash()
    before = make_candidates(dict.fromkeys(FLEET, 0))
    after = make_candidates(dict.fromkeys(FLEET[:3] + FLEET[4:], 0), slots=[0, 1, 2, 4, 5, 6, 7])
    moved = 0
    for number in range(4000):
        was = names(rank(policy, f"s{number}", before), before)
        now = names(rank(policy, f"s{number}", after), after)
        if was[0] == FLEET[3]:
            moved += 1
            assert now[0] == was[1], "a key moves to what was its second choice"
        else:
            assert now[0] == was[0]
    # Shares of eight replicas with 100 points each: mean 1/8, standard deviation about 1/8 / sqrt(100) = 0.0125.
    assert abs(moved / 4000 - 1 / 8) < 3 * 0.0125


def test_a_joiner_takes_keys_only_for_itself() -> None:
    """Keys that move when a replica joins move to it."""
    policy = consistent_hash()
    before, after = make_candidates(dict.fromkeys(FLEET, 0)), make_candidates(dict.fromkeys([*FLEET, "new"], 0))
    for number in range(2000):
        was, now = (names(rank(policy, f"s{number}", fleet), fleet)[0] for fleet in (before, after))
        assert now in (was, "new")


def test_requests_without_a_session_go_by_the_fallback() -> None:
    """No key: the least loaded serves, idle ones by dice, and never all from one replica."""
    policy = consistent_hash()
    busy = make_candidates(a=3, b=0, c=5)
    ranked = rank(policy, "", busy)
    assert names(ranked, busy) == ["b", "a"]
    assert ranked[0].reason is Reason.LEAST_LOAD
    context = make_context()
    idle = make_candidates(dict.fromkeys(FLEET, 0))
    served = Counter(names(policy.rank(make_features(), idle, context), idle)[0] for _ in range(800))
    # 100 expected each, standard deviation sqrt(800 * 1/8 * 7/8) = 9.4; five of them is 47.
    assert set(served) == set(FLEET)
    assert all(abs(count - 100) < 47 for count in served.values())


def test_needs_the_session_and_what_its_fallback_needs() -> None:
    """A fallback that counts tokens makes the whole need them."""
    assert consistent_hash().needs == Needs.SESSION
    policy = consistent_hash(fallback={"policy": "power_of_two", "by": "tokens"})
    assert policy.needs == Needs.SESSION | Needs.TOKENS
