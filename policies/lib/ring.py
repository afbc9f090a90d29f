"""A hash ring over replica ids, the one Ray Serve builds.

Each replica owns `virtual_nodes` *points*: MurmurHash3 (x64, 128 bit, its low half) of `"{replica id}:{i}"`. A key
belongs to the owner of the first point clockwise of its own hash. Rings depend on ids alone, never on slots or order:
every edge builds the same one.

`Rings` caches both what is dear: the points of a replica (a membership change hashes newcomers only) and the rings of
the memberships in use (two models, an exclusion) up to `MAX_RING_POINTS`.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import NamedTuple

import mmh3
import numpy as np
from numpy.typing import NDArray

from pointsman.policies.candidates import Candidates, Column, Slots

SEED = 0xF9B4CA77
"""CONSISTENT_HASH_SEED of ray/serve/experimental/consistent_hash_router.py."""

MAX_RING_POINTS = 1_000_000
"""About 64 MB of cached rings: ten fleets of 1,000 replicas at 100 points. The ring least recently used goes first;
the one in use stays whatever its size."""

MAX_HASHED_REPLICAS = 8192
"""Replicas whose points are kept, twice what a registry holds (800 bytes each at 100 points). When met, those not on
the ring being built are forgotten."""

NEAR_POINTS = 16
"""Points a walk looks at one by one before it looks at all the others at once."""

BLOCK = 256
"""Points made into Python numbers at a time."""

Points = NDArray[np.uint64]


def hash_key(key: str) -> int:
    """Where a key stands on the ring: unsigned 64 bit."""
    # A lone surrogate (a header that is not UTF-8) is a key like any other.
    return mmh3.hash64(key.encode("utf-8", "surrogatepass"), seed=SEED, signed=False)[0]


def hash_points(replica: str, virtual_nodes: int) -> Points:
    """The points of one replica, in the order of their numbers."""
    prefix = f"{replica}:".encode()
    digests = [mmh3.mmh3_x64_128_digest(prefix + b"%d" % i, SEED) for i in range(virtual_nodes)]
    return np.frombuffer(b"".join(digests), dtype="<u8")[::2].copy()


class Turn(NamedTuple):
    """Owners of all points of a ring, clockwise from where a key stands."""

    near: list[int]
    """The first `NEAR_POINTS` of them, or all."""
    owners: Slots


class Ring:
    """Points in ascending order and the position in `candidates.slots` of each one's owner. Immutable."""

    __slots__ = ("_near", "_owners_twice", "_points")

    def __init__(self, points: Points, owners: Slots) -> None:
        order = points.argsort()
        # A list: bisecting one is four times faster than asking an array for one place.
        self._points: list[int] = points[order].tolist()
        # Twice round, so that a turn from any point is a slice.
        self._owners_twice = np.tile(owners[order], 2)
        numbers = list(range(int(owners.max()) + 1))  # one Python number an owner, however many its points are
        first = [numbers[owner] for owner in self._owners_twice[: len(points) + NEAR_POINTS].tolist()]
        self._near: list[int] = first

    def __len__(self) -> int:
        return len(self._points)

    def turn(self, key: str) -> Turn:
        """The turn from the first point past the key on."""
        start = bisect_right(self._points, hash_key(key))
        points = len(self._points)
        return Turn(self._near[start : start + min(NEAR_POINTS, points)], self._owners_twice[start : start + points])


def walk(turn: Turn, places: int, slots: Slots, load: Column, bound: int | None) -> list[tuple[int, int]]:
    """The first `places` distinct owners of a turn, each with the number of points passed to reach it.

    `load` is by slot, owners are positions in `slots`. Those whose load has reached `bound` are passed by; a second
    turn, which counts its points on top, takes them after all where the first found too few. `places` is at most the
    number of owners.
    """
    found: dict[int, int] = {}
    # A loop over the nearest points beats any array expression, and hardly ever sees more than three of them.
    for passed, owner in enumerate(turn.near):
        if owner not in found and (bound is None or load.item(slots.item(owner)) < bound):
            found[owner] = passed
            if len(found) == places:
                return list(found.items())
    owners = turn.owners
    if bound is not None:
        _collect((load[slots][owners] < bound).nonzero()[0], owners, places, found, passed=0)
    if len(found) < places:
        _collect(np.arange(len(owners)), owners, places, found, passed=len(owners) if bound is not None else 0)
    return list(found.items())


def _collect(at: Slots, turn: Slots, places: int, found: dict[int, int], *, passed: int) -> None:
    """Adds the owners of the points `at` these places of the turn, until there are enough."""
    for start in range(0, len(at), BLOCK):
        block = at[start : start + BLOCK]
        for offset, owner in zip(block.tolist(), turn[block].tolist(), strict=True):
            if owner not in found:
                found[owner] = passed + offset
                if len(found) == places:
                    return


class Rings:
    """The rings of the memberships in use."""

    def __init__(self, virtual_nodes: int) -> None:
        self._virtual_nodes = virtual_nodes
        self._rings: dict[int, Ring] = {}  # insertion order is last-used order
        self._cached_points = 0
        self._points: dict[str, Points] = {}

    def __len__(self) -> int:
        return len(self._rings)

    def __repr__(self) -> str:
        return f"Rings({len(self._rings)} rings, {self._cached_points} points, {len(self._points)} replicas hashed)"

    def __deepcopy__(self, memo: dict[int, object]) -> Rings:
        """A copied policy shares its rings: they are a cache, and the same for equal memberships."""
        return self

    def of(self, candidates: Candidates) -> Ring:
        """The ring of these candidates, cached by `candidates.membership`."""
        ring = self._rings.pop(candidates.membership, None)
        if ring is None:
            ring = self._build([candidates.ids[slot] for slot in candidates.slots.tolist()])
            self._cached_points += len(ring)
            while self._rings and self._cached_points > MAX_RING_POINTS:
                self._cached_points -= len(self._rings.pop(next(iter(self._rings))))
        self._rings[candidates.membership] = ring
        return ring

    def _build(self, replicas: Sequence[str]) -> Ring:
        known = self._points
        for replica in replicas:
            if replica not in known:
                known[replica] = hash_points(replica, self._virtual_nodes)
        points = [known[replica] for replica in replicas]
        if len(known) > MAX_HASHED_REPLICAS:
            self._points = dict(zip(replicas, points, strict=True))
        return Ring(np.concatenate(points), np.arange(len(replicas)).repeat(self._virtual_nodes))
