"""The hash ring: the same as Ray's, built once a membership, walked clockwise."""

from __future__ import annotations

import json
from pathlib import Path

import mmh3
import numpy as np
import pytest
from candidates import make_candidates
from plain_ring import PlainRing

import pointsman.policies.lib.ring
from pointsman.policies.lib.ring import BLOCK, NEAR_POINTS, Ring, Rings, Turn, hash_key, hash_points, walk

GOLDEN = Path(__file__).parents[1] / "golden" / "ray-2.60.0-ring.json"


def successors(rings: Rings, replicas: list[str], key: str, full: frozenset[str] = frozenset()) -> list[str]:
    fleet = make_candidates({replica: int(replica in full) for replica in replicas})
    found = walk(rings.of(fleet).turn(key), len(replicas), fleet.slots, fleet.in_flight, 1 if full else None)
    return [replicas[position] for position, _ in found]


def turn_of(*owners: int) -> Turn:
    return Turn(list(owners[:NEAR_POINTS]), np.array(owners))


@pytest.mark.parametrize(("replicas", "virtual_nodes"), [(1, 100), (2, 1), (3, 100), (8, 100), (40, 20)])
def test_matches_the_plain_ring(replicas: int, virtual_nodes: int) -> None:
    """Owner and all successors of many keys are those of the plain ring, in its order."""
    ids = [f"replica-{i}" for i in range(replicas)]
    plain, rings = PlainRing(ids, virtual_nodes), Rings(virtual_nodes)
    for number in range(200):
        assert successors(rings, ids, f"sessiön-{number}") == plain.successors(f"sessiön-{number}")


@pytest.mark.parametrize("full_count", [1, 5, 11, 12])
def test_full_owners_are_passed_by(full_count: int) -> None:
    """Owners over the bound come after all others, both kinds in ring order."""
    ids = [f"replica-{i}" for i in range(12)]
    full = frozenset(ids[:full_count])
    plain, rings = PlainRing(ids, 30), Rings(30)
    for number in range(200):
        assert successors(rings, ids, f"s{number}", full) == plain.successors(f"s{number}", full)


def test_matches_what_ray_answers() -> None:
    """Golden vectors taken from Ray 2.60.0's ConsistentHashRouter, eight replicas: owner and two fallbacks per key."""
    ids = [f"replica-{i}" for i in range(8)]
    rings = Rings(100)
    golden: dict[str, list[str]] = json.loads(GOLDEN.read_text())
    assert len(golden) == 64
    for key, ranked in golden.items():
        assert successors(rings, ids, key)[:3] == ranked


def test_points_are_the_low_halves_of_murmur() -> None:
    """Points from raw digests equal the library's own 64-bit hash."""
    plain = [mmh3.hash64(f"r:{i}", seed=0xF9B4CA77, signed=False)[0] for i in range(100)]
    assert hash_points("r", 100).tolist() == plain
    assert hash_key("r:7") == plain[7]


def test_any_key_has_a_place() -> None:
    """A key that is no valid text (a lone surrogate) is hashed like any other."""
    assert 0 <= hash_key("\ud800") < 2**64


def test_a_key_on_a_point_belongs_to_the_next() -> None:
    """`bisect_right`: a point owns the keys before it, not one that hashes to it; the last ones wrap to the first."""
    key = np.uint64(hash_key("k"))
    ring = Ring(np.array([key, key + np.uint64(1), np.uint64(5)], dtype=np.uint64), np.arange(3))
    assert ring.turn("k").owners.tolist() == ring.turn("k").near == [1, 2, 0]
    wrapped = Ring(np.array([np.uint64(5), key], dtype=np.uint64), np.arange(2))
    assert wrapped.turn("k").owners.tolist() == wrapped.turn("k").near == [0, 1]


def test_order_and_slots_do_not_matter() -> None:
    """Two edges that gave the same replicas different slots send a key to the same one."""
    ids = [f"replica-{i}" for i in range(9)]
    one, other = Rings(100), Rings(100)
    for number in range(100):
        assert successors(one, ids, f"s{number}") == successors(other, ids[::-1], f"s{number}")


def test_a_walk_counts_the_points_it_passes() -> None:
    """Each owner comes with its distance in points; what only the second turn takes is a whole turn further."""
    turn = turn_of(2, 2, 0, 2, 1, 0)
    slots = np.array([1, 3, 4])
    assert walk(turn, 3, slots, np.array([9, 0, 9, 0, 0]), None) == [(2, 0), (0, 2), (1, 4)]
    assert walk(turn, 3, slots, np.array([9, 0, 9, 0, 4]), 4) == [(0, 2), (1, 4), (2, 6)]
    assert walk(turn, 1, slots, np.array([0, 4, 0, 4, 4]), 4) == [(2, 6)]


@pytest.mark.parametrize("bound", [None, 1])
def test_a_walk_goes_as_far_as_it_must(bound: int | None) -> None:
    """An owner beyond the near points, and beyond the first block, is found where it stands."""
    distance = NEAR_POINTS + BLOCK + 3
    turn = turn_of(*[0] * distance, 1)
    assert walk(turn, 2, np.arange(2), np.zeros(2, dtype=np.int64), bound) == [(0, 0), (1, distance)]


def test_a_ring_is_built_once_a_membership() -> None:
    """The same membership gets the same ring; another one its own, and both stay."""
    rings = Rings(10)
    one, other = make_candidates(a=0, b=0), make_candidates(a=0, c=0)
    assert rings.of(one) is rings.of(make_candidates(a=5, b=7))
    assert rings.of(other) is not rings.of(one)
    assert len(rings) == 2


@pytest.mark.sources
def test_a_membership_change_hashes_newcomers_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Points of a replica survive in the cache while rings come and go."""
    hashed: list[str] = []

    def spy(replica: str, virtual_nodes: int) -> pointsman.policies.lib.ring.Points:
        hashed.append(replica)
        return hash_points(replica, virtual_nodes)

    monkeypatch.setattr(pointsman.policies.lib.ring, "hash_points", spy)
    rings = Rings(10)
    rings.of(make_candidates(a=0, b=0))
    rings.of(make_candidates(b=0, c=0, slots=[1, 2]))
    rings.of(make_candidates(a=0, b=0, c=0))
    assert hashed == ["a", "b", "c"]


def test_cached_rings_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the limit of points the least recently used ring goes; the one in use stays even if alone too large."""
    monkeypatch.setattr(pointsman.policies.lib.ring, "MAX_RING_POINTS", 60)
    rings = Rings(10)
    pairs = [make_candidates({f"a{i}": 0, f"b{i}": 0}) for i in range(3)]
    first, second, third = (rings.of(pair) for pair in pairs)
    assert rings.of(pairs[0]) is first
    rings.of(make_candidates(x=0, y=0))
    assert rings.of(pairs[2]) is third
    assert rings.of(pairs[0]) is first
    assert rings.of(pairs[1]) is not second
    large = make_candidates([0] * 30)
    assert rings.of(large) is rings.of(large)
    assert len(rings) == 1
    assert repr(rings) == "Rings(1 rings, 300 points, 38 replicas hashed)"


def test_hashed_replicas_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fleet whose replica ids keep changing does not grow the cache without end."""
    monkeypatch.setattr(pointsman.policies.lib.ring, "MAX_HASHED_REPLICAS", 5)
    rings = Rings(3)
    for generation in range(10):
        rings.of(make_candidates({f"g{generation}-{i}": 0 for i in range(3)}))
    assert len(rings._points) <= 5
