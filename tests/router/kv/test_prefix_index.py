"""The prefix index against a model that keeps plain sets."""

from __future__ import annotations

import heapq
import random
from collections import defaultdict
from collections.abc import Sequence

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from invariants import check
from residency import residents

from pointsman.router.kv import prefix_index
from pointsman.router.kv.prefix_index import MAX_LEVELS, PrefixIndex


def make_index(slots: int = 4, **limits: int) -> PrefixIndex:
    """An index that knows slots 0, 1, ..."""
    index = PrefixIndex(**limits)
    for slot in range(slots):
        index.add_slot(slot)
    return index


def store(index: PrefixIndex, slot: int, keys: Sequence[int]) -> None:
    for key in keys:
        index.stored(slot, key)


def depths(index: PrefixIndex, keys: Sequence[int]) -> dict[int, int]:
    """Slot -> index of its deepest key; every slot may come once only."""
    found: dict[int, int] = {}
    for at, slots in index.match(keys):
        for slot in slots:
            assert slot not in found
            found[int(slot)] = at
    return found


def test_depths_of_all_holders_come_in_one_answer() -> None:
    """Whoever shares only the head is found at the head, the conversation's home at its end."""
    index = make_index(20)
    chain = list(range(100, 164))
    for slot in range(20):
        store(index, slot, chain[:16])
    store(index, 3, chain[:60])
    store(index, 7, chain[:17])
    assert depths(index, chain) == dict.fromkeys(range(20), 15) | {3: 59, 7: 16}
    assert depths(index, [1, *chain]) == {}
    assert depths(index, ()) == {}


def test_evicting_shortens_and_the_last_holder_takes_the_key_with_it() -> None:
    """A key nobody holds takes no room."""
    index = make_index()
    store(index, 0, [1, 2, 3])
    store(index, 1, [1, 2])
    index.evicted(0, 3)
    assert depths(index, [1, 2, 3]) == {0: 1, 1: 1}
    for slot in (0, 1):
        for key in (2, 1, 99):
            index.evicted(slot, key)
    assert (len(index), depths(index, [1, 2, 3])) == (0, {})


def test_a_restarted_replica_holds_nothing_at_once() -> None:
    """Its old keys are void the moment it is forgotten, what it stores from then on counts, others keep theirs."""
    index = make_index()
    store(index, 0, [1, 2, 3])
    store(index, 1, [1])
    index.expect(0, (1, 2, 3, 4), 3, 99.0)
    index.forget(0)
    assert depths(index, [1, 2, 3, 4]) == {1: 0}
    index.stored(0, 1)
    assert depths(index, [1, 2, 3, 4]) == {0: 0, 1: 0}


def test_tidying_frees_what_the_dead_held() -> None:
    """Step by step, without a word of it in answers; the bits are used again."""
    index = make_index(2)
    store(index, 0, range(1000))
    store(index, 1, range(500, 1000))
    for _ in range(70):
        index.forget(0)
        index.stored(0, 7)
        while index.tidy(100):
            assert depths(index, [500, 501]) == {1: 1}
            check(index)
    assert len(index) == 501
    assert index._bits <= 4


def test_expectations_count_until_their_time_is_up() -> None:
    """A prompt under way attracts its followers; confirmed keys stay, the others go."""
    index = make_index()
    index.stored(2, 1)
    index.expect(2, (1, 2, 3, 4), 1, end_s=10.0)
    index.expect(1, (1, 2), 0, end_s=20.0)
    assert depths(index, [1, 2, 3, 4]) == {2: 3, 1: 1}
    index.stored(2, 2)
    index.expectations.expire(9.9)
    assert depths(index, [1, 2, 3, 4]) == {2: 3, 1: 1}
    index.expectations.expire(10.0)
    assert depths(index, [1, 2, 3, 4]) == {2: 1, 1: 1}
    index.expectations.expire(20.0)
    assert depths(index, [1, 2, 3, 4]) == {2: 1}
    assert (len(index.expectations), index.expectations.expired) == (0, 4)


def test_expectations_are_bounded() -> None:
    """The prompt whose time is up first makes room."""
    index = make_index(max_expected_keys=10)
    for number in range(5):
        index.expect(0, tuple(range(4 * number, 4 * number + 4)), 0, end_s=float(number))
        check(index)
    assert depths(index, [16, 17, 18, 19]) == {0: 3}
    assert depths(index, [0, 1]) == {}


def test_what_is_remembered_of_expectations_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Confirmed ones too are remembered until their time is up, or until there are too many."""
    monkeypatch.setattr(prefix_index, "MAX_MARKED_KEYS", 40)
    index = make_index()
    for number in range(50):
        keys = tuple(range(4 * number, 4 * number + 4))
        index.expect(0, keys, 0, end_s=30.0)
        for key in keys:
            index.stored(0, key)
        check(index)
        assert len(index.expectations._marks) <= 10
    assert depths(index, [0, 1, 2, 3]) == {0: 3}


def test_at_the_limit_what_is_in_use_stays() -> None:
    """A prompt that keeps being routed outlives ten times the index in keys nobody asks for."""
    index = make_index(max_keys=1000)
    hot = tuple(range(1, 41))
    store(index, 1, hot)
    for number in range(10_000):
        index.stored(0, 100_000 + number)
        if number % 100 == 0:
            index.expect(1, hot, len(hot), 1e9)
    assert depths(index, hot) == {1: 39}
    assert len(index) == 1000
    assert index.evicted_by_limit == 9040
    check(index)


def test_a_snapshot_is_of_confirmed_residency() -> None:
    """Expectations and the dead are not in it."""
    index = make_index(12)
    for slot in range(12):
        store(index, slot, [1, 2][: 1 + slot % 2])
    index.expect(3, (1, 2, 5), 2, 1.0)
    index.forget(0)
    assert {key: sorted(slots) for key, slots in residents(index).items()} == {
        1: list(range(1, 12)),
        2: list(range(1, 12, 2)),
    }


def test_answers_name_held_keys_even_where_residency_has_gaps() -> None:
    """Whatever is stored: each slot at most once, at a key it holds, and only if it holds the first."""
    dice = random.Random(5)
    for _ in range(300):
        index = make_index(12)
        chain = list(range(50))
        held = {slot: {key for key in chain if dice.random() < dice.choice([0.2, 0.9])} for slot in range(12)}
        for slot, keys in held.items():
            store(index, slot, sorted(keys))
        found = depths(index, chain)
        assert found.keys() == {slot for slot, keys in held.items() if 0 in keys}
        assert all(chain[at] in held[slot] for slot, at in found.items())


def test_a_ragged_fleet_is_answered_in_bounded_work() -> None:
    """Where every replica drops out elsewhere the deepest are exact, and the rest are named at a key they hold."""
    index = make_index(100)
    chain = list(range(128))
    for slot in range(100):
        store(index, slot, chain[: slot + 1])
    found = depths(index, chain)
    assert found.keys() == set(range(100))
    assert all(found[slot] == slot for slot in range(84, 100))
    assert all(found[slot] <= slot for slot in range(84))
    assert len(index.match(chain)) <= MAX_LEVELS + 8


CHAINS = [[head * 1000 + fork * (at >= 5) * 100 + at for at in range(12)] for head in range(2) for fork in range(3)]
"""Six prompts: two system prompts of five keys, three conversations below each."""

SLOTS = st.integers(0, 11)


class AgainstSets(RuleBasedStateMachine):
    """Random lives of replicas whose residency is closed under prefixes."""

    def __init__(self) -> None:
        super().__init__()
        self.index = make_index(12)
        self.held: dict[int, set[int]] = defaultdict(set)
        self.marks: list[tuple[float, int, tuple[int, ...]]] = []
        self.now_s = 0.0

    def expected(self, slot: int) -> set[int]:
        return {key for _, marked, keys in self.marks if marked == slot for key in keys}

    @rule(slot=SLOTS, chain=st.sampled_from(CHAINS), depth=st.integers(1, 12))
    def stored(self, slot: int, chain: list[int], depth: int) -> None:
        for key in chain[:depth]:
            self.index.stored(slot, key)
            self.held[slot].add(key)
            # A confirmed expectation is none any more.
            self.marks = [
                (end, marked, tuple(one for one in keys if marked != slot or one != key))
                for end, marked, keys in self.marks
            ]

    @rule(slot=SLOTS, chain=st.sampled_from(CHAINS), left=st.integers(0, 11))
    def evicted(self, slot: int, chain: list[int], left: int) -> None:
        if left < 5:  # the shared head goes with all that is below it
            chains = [other for other in CHAINS if other[0] == chain[0]]
        else:
            chains = [chain]
        for other in chains:
            for key in reversed(other[left:]):
                self.index.evicted(slot, key)
                self.held[slot].discard(key)
        self.marks = [mark for mark in self.marks if mark[1] != slot]
        # Expectations below what was evicted would be gaps; and one made again ends with the one before.
        mask = self.index._masks[slot]
        self.index.expectations._marks = [mark for mark in self.index.expectations._marks if mark[1] != mask]
        heapq.heapify(self.index.expectations._marks)
        self.index.expectations._marked = sum(len(mark[2]) for mark in self.index.expectations._marks)
        for other in CHAINS:
            self.index.unexpect(slot, other)

    @rule(slot=SLOTS, chain=st.sampled_from(CHAINS), ttl_s=st.integers(1, 5))
    def expect(self, slot: int, chain: list[int], ttl_s: int) -> None:
        have = self.held[slot] | self.expected(slot)
        start = next((at for at, key in enumerate(chain) if key not in have), len(chain))
        # Only one mark at a time, or an early end would leave a gap behind it.
        if not self.expected(slot):
            self.index.expect(slot, tuple(chain), start, self.now_s + ttl_s)
            if chain[start:]:
                self.marks.append((self.now_s + ttl_s, slot, tuple(chain[start:])))

    @rule(seconds=st.integers(1, 3))
    def time_passes(self, seconds: int) -> None:
        self.now_s += seconds
        self.index.expectations.expire(self.now_s)
        self.marks = [mark for mark in self.marks if mark[0] > self.now_s]

    @rule(slot=SLOTS)
    def restart(self, slot: int) -> None:
        self.index.forget(slot)
        self.held[slot].clear()
        self.marks = [mark for mark in self.marks if mark[1] != slot]

    @rule(slot=SLOTS)
    def replace(self, slot: int) -> None:
        self.index.clear_slot(slot)
        self.index.add_slot(slot)
        self.held[slot].clear()
        self.marks = [mark for mark in self.marks if mark[1] != slot]

    @precondition(lambda self: self.held)
    @rule(keys=st.integers(1, 30))
    def tidy(self, keys: int) -> None:
        self.index.tidy(keys)

    @invariant()
    def answers_agree(self) -> None:
        check(self.index)
        for chain in CHAINS:
            wanted = {}
            for slot in range(12):
                have = self.held[slot] | self.expected(slot)
                depth = next((at for at, key in enumerate(chain) if key not in have), len(chain))
                if depth:
                    wanted[slot] = depth - 1
            assert depths(self.index, chain) == wanted


AgainstSets.TestCase.settings = settings(max_examples=60, stateful_step_count=40)
TestAgainstSets = AgainstSets.TestCase


@pytest.mark.parametrize("known", [0, 5])
def test_slots_beyond_the_first_table_work(known: int) -> None:
    """Slots come in any order and number."""
    index = make_index(known)
    for slot in range(199, known - 1, -1):
        index.add_slot(slot)
        index.stored(slot, 1)
    assert depths(index, [1]) == dict.fromkeys(range(known, 200), 0)
