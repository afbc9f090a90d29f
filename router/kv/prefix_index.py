"""Residency of prompt prefixes: which replica holds which.

`PrefixIndex` owns a mirror of the replicas' caches: prefix key -> the set of replicas that hold the whole prefix the
key names. A set is an integer with one bit a replica, so the index is one dict of integers whatever the fleet's size.
Two things enter it: what replicas *confirm* (`stored`, `evicted`, each O(1)), and what decisions *expect* (`expect`),
which ends when it is confirmed or when its time is up.

**Residency is closed under prefixes**, for one replica at a time: who holds key i holds all before it. Caches evict
the tail of a chain first (vLLM frees a request's blocks in reverse), and expectations are made for whole prompts. So
`match` bisects for the places where a holder drops out: about 7 looks a place for 128 keys, where a walk takes one for
each key and, in an index larger than the processor's cache, several memory stalls with it. Where a replica does have a
gap, the answer is a key it holds, perhaps behind the gap: a prediction a little too good, which the metric of
predicted against actual tokens shows.

**Forgetting a replica is O(1)**: its bit is declared dead and it gets another; dead bits are masked in answers until
`tidy` has gone through the keys and they can be used again.

**Limit.** At most `max_keys` confirmed keys. They are kept in two layers: `_recent`, and `_older` below it, which is
the layer that was recent before. A prompt that is routed lifts its keys into the recent layer; at the limit, keys go
from the older one. So what goes is what no decision and no event has touched for the longest half of the index.
"""

from __future__ import annotations

import heapq
import sys
from collections.abc import Iterator, Sequence

import numpy as np

from pointsman.policies.candidates import Slots

MAX_KEYS = 1_000_000
"""Limit of confirmed keys, about 200 MB. 500,000 tokens of KV are some 1,000 keys, so this is a fleet of hundreds."""

MAX_EXPECTED_KEYS = 262_144
"""Expectations not yet confirmed: 2,000 prompts of 128 keys. When met, the oldest prompts' go."""

MAX_MARKED_KEYS = 1_048_576
"""Keys of prompts that were expected, confirmed or not, until their time is up: about 40 MB. The oldest prompts' go."""

MAX_SHARED_SETS = 65_536
"""Distinct sets of several replicas kept to be shared between keys."""

MAX_LEVELS = 16
"""Places at which holders drop out of one prompt that are told apart; head and conversations are two or three."""

MAX_LISTED_SETS = 1024
"""Sets whose slots are remembered as a list or an array; a system prompt's holders are asked for with every prompt."""

KEY_BYTES = 48
"""Memory of one key, an integer of 64 bits."""

FEW_SLOTS = 16
"""Most holders that are listed one by one, which is cheaper than an array."""

Level = tuple[int, Sequence[int] | Slots]


class Expectations:
    """Keys that decisions expect on replicas, until a replica confirms them or their time is up."""

    def __init__(self, limit: int) -> None:
        self.sets: dict[int, int] = {}
        """Set of replicas expected to hold a key, by key."""
        self._limit = limit
        self._marks: list[tuple[float, int, Sequence[int]]] = []
        """A heap of (end, the slot's set, keys)."""
        self._marked = 0
        """Number of keys in the heap."""
        self.expired = 0
        """Expected keys that no replica confirmed in time."""

    def __len__(self) -> int:
        return len(self.sets)

    def add(self, mask: int, keys: Sequence[int], end_s: float) -> None:
        """Expect keys on one replica until `end_s`. Beyond the limits the oldest expectations end."""
        sets = self.sets
        others = sets.get
        for key in keys:
            sets[key] = others(key, 0) | mask
        heapq.heappush(self._marks, (end_s, mask, keys))
        self._marked += len(keys)
        while len(sets) > self._limit or self._marked > MAX_MARKED_KEYS:
            self._void_first()

    def settle(self, key: int, mask: int) -> None:
        """End the expectation of a key on one replica: it came true, or is void."""
        bits = self.sets.get(key, 0)
        if bits & mask:
            if not bits & ~mask:
                del self.sets[key]
            else:
                self.sets[key] = bits & ~mask

    def expire(self, now_s: float) -> None:
        """End the expectations whose time is up. O(1) when there are none."""
        marks = self._marks
        while marks and marks[0][0] <= now_s:
            self._void_first()

    def _void_first(self) -> None:
        _, mask, keys = heapq.heappop(self._marks)
        self._marked -= len(keys)
        before = len(self.sets)
        for key in keys:
            self.settle(key, mask)
        self.expired += before - len(self.sets)

    def drop(self, dying: int) -> None:
        """End all expectations on a set of replicas that are no more."""
        for key, bits in list(self.sets.items()):
            if bits & dying:
                self.settle(key, dying)
        self._marks = [mark for mark in self._marks if not mark[1] & dying]
        heapq.heapify(self._marks)
        self._marked = sum(len(mark[2]) for mark in self._marks)


class PrefixIndex:
    """Confirmed and expected residency of prefix keys."""

    def __init__(self, *, max_keys: int = MAX_KEYS, max_expected_keys: int = MAX_EXPECTED_KEYS) -> None:
        self.max_keys = max_keys
        self._recent: dict[int, int] = {}
        self._older: dict[int, int] = {}
        self.expectations = Expectations(max_expected_keys)
        self._shared: dict[int, int] = {}
        self._listed: dict[int, Sequence[int] | Slots] = {}
        self._masks: dict[int, int] = {}
        """Set of one slot alone, by slot."""
        self.held: dict[int, int] = {}
        """Number of confirmed keys by slot, for others to read."""
        self._slot_of_bit: Slots = np.zeros(64, dtype=np.intp)
        self._bits = 0
        self._free_bits: list[int] = []
        self._dead = 0
        self._dying = 0
        """Dead bits that no key has once the older layer is empty."""
        self.evicted_by_limit = 0
        """Keys dropped because the index was full."""

    def __len__(self) -> int:
        return len(self._recent) + len(self._older)

    def __repr__(self) -> str:
        return f"PrefixIndex({len(self)} of {self.max_keys} keys, {len(self.expectations)} expected)"

    # Slots

    def add_slot(self, slot: int) -> None:
        """Make room for a replica that holds nothing."""
        if slot in self._masks:
            self.forget(slot)
            return
        if self._free_bits:
            bit = self._free_bits.pop()
        else:
            bit = self._bits
            self._bits += 1
            if bit >= len(self._slot_of_bit):
                self._slot_of_bit = np.concatenate([self._slot_of_bit, np.zeros_like(self._slot_of_bit)])
        self._masks[slot] = 1 << bit
        self.held[slot] = 0
        self._slot_of_bit[bit] = slot
        self._listed.clear()

    def clear_slot(self, slot: int) -> None:
        """Drop all that is known of a slot whose replica left. O(1)."""
        self._dead |= self._masks.pop(slot)
        del self.held[slot]

    def forget(self, slot: int) -> None:
        """Drop all that is known of a slot, expectations included: the engine there restarted. O(1)."""
        self.clear_slot(slot)
        self.add_slot(slot)

    # Events

    def stored(self, slot: int, key: int) -> None:
        """Note that a replica reported to hold the prefix that a key names."""
        mask = self._masks[slot]
        recent = self._recent
        bits = recent.get(key)
        if bits is None:
            older = self._older
            bits = older.pop(key, 0) & ~self._dead if older else 0
            if bits:
                self.held[slot] += not bits & mask
                recent[key] = self._share(bits | mask)
            else:
                self.held[slot] += 1
                if len(recent) + len(older) >= self.max_keys:
                    self._make_room()
                    recent = self._recent
                recent[key] = mask
        elif not bits & mask:
            self.held[slot] += 1
            recent[key] = self._share(bits | mask)
        if self.expectations.sets:
            self.expectations.settle(key, mask)

    def evicted(self, slot: int, key: int) -> None:
        """Note that a replica reported to hold the prefix of a key no longer."""
        mask = self._masks[slot]
        layer = self._recent if key in self._recent else self._older
        bits = layer.get(key, 0)
        if bits & mask:
            self.held[slot] -= 1
            if bits == mask:
                del layer[key]
            else:
                layer[key] = self._share(bits ^ mask)

    def _share(self, bits: int) -> int:
        """Return one object for equal sets: in a fleet of 1,000 a set is 160 bytes, more than its key."""
        shared = self._shared
        if len(shared) >= MAX_SHARED_SETS:
            shared.clear()
        return shared.setdefault(bits, bits)

    def _make_room(self) -> None:
        if not self._older:
            self._rotate()
        _, bits = self._older.popitem()
        for slot in self._slots(bits & ~self._dead):
            self.held[int(slot)] -= 1
        self.evicted_by_limit += 1
        if not self._older:
            self._layer_done()

    def _rotate(self) -> None:
        self._recent, self._older = {}, self._recent
        self._dying |= self._dead

    # Expectations

    def expect(self, slot: int, keys: Sequence[int], start: int, end_s: float) -> None:
        """Expect a prompt's keys from number `start` on where a decision sends it; void after `end_s`.

        The keys before, which the decision counted on, are lifted out of reach of the limit.
        """
        if self._older and start:
            self._lift(keys[:start])
        added = keys[start:]
        if added:
            self.expectations.add(self._masks[slot], added, end_s)

    def _lift(self, keys: Sequence[int]) -> None:
        older, recent = self._older, self._recent
        if keys[0] in older or keys[-1] in older:
            for key in keys:
                bits = older.pop(key, 0) & ~self._dead
                if bits:
                    recent[key] = bits
            if not older:
                self._layer_done()

    def unexpect(self, slot: int, keys: Sequence[int]) -> None:
        """End the expectation of keys on a slot that has not confirmed them."""
        expected = self.expectations.sets
        if expected:
            mask = self._masks[slot]
            for key in keys:
                if key in expected:
                    self.expectations.settle(key, mask)

    # Reading

    def match(self, keys: Sequence[int]) -> list[Level]:
        """Return how much of a prompt replicas hold: (index of the deepest key held, the slots that hold it).

        Deepest first, each slot once, arrays ascending. Beyond `MAX_LEVELS` places where holders drop out, a slot is
        named at a shallower key than its deepest.
        """
        if not keys:
            return []
        recent, expected, older = self._recent.get, self.expectations.sets.get, self._older
        key = keys[0]
        top = recent(key, 0) | expected(key, 0)
        if older:
            top |= older.get(key, 0)
        top &= ~self._dead
        if not top:
            return []
        found: list[Level] = []
        # Within [low, high): `top` holds the key at `low`, and `bottom`, a part of it, the one at `high`; the others
        # drop out in between. The deep half goes first, the shallow one waits in `above`.
        low, high, bottom = 0, len(keys), 0
        above: list[tuple[int, int, int, int]] = []
        # A conversation's home holds nearly all of its next prompt.
        middle = high - 1 - (high >> 4)
        while True:
            if high - low == 1 or len(found) >= MAX_LEVELS:
                found.append((low, self._slots(top ^ bottom)))
                if not above:
                    return found
                low, high, top, bottom = above.pop()
            else:
                key = keys[middle]
                between = recent(key, 0) | expected(key, 0)
                if older:
                    between |= older.get(key, 0)
                between = between & top | bottom
                if between == bottom:
                    high = middle
                elif between == top:
                    low = middle
                else:
                    above.append((low, middle, top, between))
                    low, top = middle, between
            middle = (low + high) >> 1

    def _slots(self, bits: int) -> Sequence[int] | Slots:
        """Return the slots of a set; shared, not to be written to."""
        listed = self._listed
        known = listed.get(bits)
        if known is None:
            if len(listed) >= MAX_LISTED_SETS:
                listed.clear()
            known = listed[bits] = self._list(bits)
        return known

    def _list(self, bits: int) -> Sequence[int] | Slots:
        count = bits.bit_count()
        slot_of_bit = self._slot_of_bit
        if count <= FEW_SLOTS:
            slots = []
            while bits:
                lowest = bits & -bits
                slots.append(slot_of_bit.item(lowest.bit_length() - 1))
                bits ^= lowest
            return slots
        raw = np.frombuffer(bits.to_bytes((bits.bit_length() + 7) // 8, "little"), dtype=np.uint8)
        held: Slots = slot_of_bit[np.unpackbits(raw, bitorder="little").nonzero()[0]]
        held.sort()
        return held

    # Upkeep

    def tidy(self, keys: int) -> bool:
        """Go through at most `keys` keys to rid them of dead bits; True while there is more to do."""
        if not self._older:
            if not self._dead:
                return False
            if not self._recent:
                self._dying = self._dead
                self._layer_done()
                return False
            self._rotate()
        if not self._dying and not self._dead:
            return False
        older, recent, alive = self._older, self._recent, ~self._dead
        for _ in range(min(keys, len(older))):
            key, bits = older.popitem()
            bits &= alive
            if bits:
                recent[key] = self._share(bits)
        if older:
            return True
        self._layer_done()
        return bool(self._dead)

    def _layer_done(self) -> None:
        """Free the dead bits that no key has any more, now that the older layer is empty."""
        dying, self._dying = self._dying, 0
        if dying:
            self.expectations.drop(dying)
            self._dead &= ~dying
            while dying:
                lowest = dying & -dying
                self._free_bits.append(lowest.bit_length() - 1)
                dying ^= lowest

    def export(self, size: int) -> Iterator[list[tuple[Sequence[int] | Slots, list[int]]]]:
        """Yield confirmed residency, about `size` keys at a time, grouped by the slots that hold them.

        The index may change between two steps: a key is told as it is when its turn comes, or not at all if it came
        later.
        """
        keys = [*self._older, *self._recent]
        for at in range(0, len(keys), size):
            recent, older, alive = self._recent.get, self._older.get, ~self._dead
            groups: dict[int, list[int]] = {}
            for key in keys[at : at + size]:
                bits = (recent(key, 0) or older(key, 0)) & alive
                if bits:
                    groups.setdefault(bits, []).append(key)
            yield [(self._slots(bits), group) for bits, group in groups.items()]


def size_bytes(index: PrefixIndex) -> int:
    """Estimate of the memory that confirmed keys and the sets of their holders take."""
    tables = sum(map(sys.getsizeof, (index._recent, index._older, index._shared)))
    return tables + KEY_BYTES * len(index) + sys.getsizeof(1 << index._bits) * len(index._shared)
