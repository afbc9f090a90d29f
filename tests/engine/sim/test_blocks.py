"""The block cache: hits, the order of eviction, and what is left when everybody has let go."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from pointsman.engine.sim.blocks import BlockCache, Lease, Removed, Stored

BLOCK = 4


def fill(cache: BlockCache, hashes: Sequence[int], tokens: int | None = None) -> Lease:
    """Admit a chain and compute it to its end (or to `tokens`)."""
    tokens = len(hashes) * BLOCK if tokens is None else tokens
    lease = cache.admit(hashes, len(hashes), -(-tokens // BLOCK))
    assert lease is not None
    assert cache.grow(lease, hashes, tokens, BLOCK)
    return lease


def evicted(cache: BlockCache) -> list[int]:
    """Every block that went, in order."""
    return [h for event in cache.events if isinstance(event, Removed) for h in event.hashes]


def test_a_prompt_takes_blocks_and_gives_them_back() -> None:
    """10 tokens in blocks of 4: two full ones stay findable, the third was never full and is blank again."""
    cache = BlockCache(8)
    lease = fill(cache, [1, 2, 3], tokens=10)
    assert (cache.held, cache.idle, cache.blank) == (3, 0, 5)
    assert cache.events == [Stored(None, (1, 2))]
    cache.release(lease)
    assert (cache.held, cache.idle, cache.blank) == (0, 2, 6)
    assert cache.resident([1, 2, 3]) == 2


def test_a_hit_shares_blocks() -> None:
    """Two chains with two blocks in common hold 2 + 1 + 1 blocks, not 6."""
    cache = BlockCache(8)
    fill(cache, [1, 2, 3])
    lease = fill(cache, [1, 2, 4])
    assert lease.full == 3
    assert cache.held == 4
    assert cache.events[-1] == Stored(2, (4,))


def test_a_hit_in_the_middle_of_an_idle_run_leaves_the_rest_where_it_was() -> None:
    """Blocks 1-2 of a four-block run are used again; 3 and 4 keep their place at the old end."""
    cache = BlockCache(8)
    cache.release(fill(cache, [1, 2, 3, 4]))
    cache.release(fill(cache, [5, 6]))
    lease = cache.admit([1, 2, 99], 3, 3)
    assert lease is not None and lease.full == 2
    assert cache.grow(lease, [1, 2, 99], 3 * BLOCK, BLOCK)  # one of two blank blocks
    fill(cache, [7, 8, 9])  # one blank, two evicted
    assert evicted(cache) == [4, 3]


def test_admission_counts_what_a_hit_takes_out_of_the_idle_blocks() -> None:
    """4 blocks, all idle. A chain that hits 2 of them and needs 3 more has room for 2: refused, nothing changed."""
    cache = BlockCache(4)
    cache.release(fill(cache, [1, 2, 3, 4]))
    assert cache.admit([1, 2, 5, 6, 7], 5, 5) is None
    assert (cache.held, cache.idle, cache.blank) == (0, 4, 0)
    assert cache.admit([1, 2, 5, 6], 4, 4) is not None


def test_blocks_without_a_hash_age_but_are_never_found() -> None:
    """A generated block has a private name: it stays idle like any other, and no chain can hit it."""
    cache = BlockCache(4)
    lease = fill(cache, [1])
    assert cache.grow(lease, [1], 2 * BLOCK, BLOCK)
    cache.release(lease)
    assert cache.idle == 2
    assert cache.resident([1, 2]) == 1
    (private,) = cache.events[-1].hashes
    assert private < 0


@pytest.mark.parametrize("blocks", [pytest.param(1_500, id="a 24k-token prompt"), pytest.param(3, id="a short one")])
def test_one_conversation_is_one_run(blocks: int) -> None:
    """Turn after turn grows the same run, so a hit costs the same however long the conversation is."""
    cache = BlockCache(8_192)
    hashes = list(range(1, 5 * blocks + 1))
    for turn in range(1, 6):
        cache.release(fill(cache, hashes[: turn * blocks]))
    lease = cache.admit(hashes, len(hashes), len(hashes))
    assert lease is not None and lease.tip.parent is not None
    assert len(lease.tip.hashes) == 5 * blocks


class NaiveCache:
    """The same rules block by block: the reference for `BlockCache`."""

    def __init__(self, capacity: int) -> None:
        self.blank = capacity
        self.holders: dict[int, int] = {}
        self.order: list[int] = []
        self.removed: list[int] = []
        self.stored: list[int] = []
        self.private = 0

    def resident(self, hashes: Sequence[int]) -> int:
        count = 0
        while count < len(hashes) and hashes[count] in self.holders:
            count += 1
        return count

    def admit(self, hashes: Sequence[int], limit: int, total: int) -> NaiveLease | None:
        hit = list(hashes[: min(limit, self.resident(hashes))])
        idle = sum(self.holders[h] == 0 for h in hit)
        if total - len(hit) > self.blank + len(self.order) - idle:
            return None
        for h in hit:
            self.hold(h)
        return NaiveLease(hit)

    def hold(self, h: int) -> None:
        if self.holders[h] == 0:
            self.order.remove(h)
        self.holders[h] += 1

    def grow(self, lease: NaiveLease, hashes: Sequence[int], tokens: int) -> bool:
        full, rest = divmod(tokens, BLOCK)
        wanted = full + (rest > 0) - len(lease.hashes) - lease.filling
        if wanted > self.blank + len(self.order):
            return False
        if wanted > 0:
            for _ in range(max(0, wanted - self.blank)):
                oldest = self.order.pop(0)
                del self.holders[oldest]
                self.removed.append(oldest)
                self.blank += 1
            self.blank -= wanted
        lease.filling = rest > 0
        for index in range(len(lease.hashes), full):
            if index < len(hashes):
                h = hashes[index]
            else:
                self.private -= 1
                h = self.private
            if h in self.holders:
                self.hold(h)
                self.blank += 1
            else:
                self.holders[h] = 1
                self.stored.append(h)
            lease.hashes.append(h)
        return True

    def release(self, lease: NaiveLease) -> None:
        self.blank += lease.filling
        for h in reversed(lease.hashes):
            self.holders[h] -= 1
            if self.holders[h] == 0:
                self.order.append(h)


class NaiveLease:
    def __init__(self, hashes: list[int]) -> None:
        self.hashes = hashes
        self.filling = False


NAMES: dict[tuple[int, ...], int] = {}


def chain(content: Sequence[int]) -> list[int]:
    """Hashes of a chain of blocks: equal prefixes, equal hashes."""
    return [NAMES.setdefault(tuple(content[: end + 1]), len(NAMES) + 1) for end in range(len(content))]


class BlockCacheAgainstNaive(RuleBasedStateMachine):
    """Any order of admissions, growth and releases: runs and single blocks agree on everything one can see."""

    leases = Bundle("leases")

    def __init__(self) -> None:
        super().__init__()
        self.cache, self.naive = BlockCache(12), NaiveCache(12)
        self.chains: list[list[int]] = []

    @rule(target=leases, content=st.lists(st.integers(0, 1), min_size=1, max_size=6), short=st.integers(-2, 2))
    def admit(self, content: list[int], short: int) -> object:
        hashes = chain(content)
        self.chains.append(hashes)
        limit, total = max(0, len(hashes) - short), len(hashes)
        lease, naive = self.cache.admit(hashes, limit, total), self.naive.admit(hashes, limit, total)
        assert (lease is None) == (naive is None)
        if lease is None or naive is None:
            return multiple()
        assert lease.full == len(naive.hashes)
        return [lease, naive, hashes, lease.full * BLOCK]

    @rule(lease=leases, tokens=st.integers(1, 4 * BLOCK))
    def grow(self, lease: list[object], tokens: int) -> None:
        ours, naive, hashes, computed = lease
        assert isinstance(ours, Lease) and isinstance(naive, NaiveLease)
        assert isinstance(hashes, list) and isinstance(computed, int)
        grown = self.cache.grow(ours, hashes, computed + tokens, BLOCK)
        assert grown == self.naive.grow(naive, hashes, computed + tokens)
        if grown:
            lease[3] = computed + tokens

    @rule(lease=consumes(leases))
    def release(self, lease: list[object]) -> None:
        ours, naive = lease[0], lease[1]
        assert isinstance(ours, Lease) and isinstance(naive, NaiveLease)
        self.cache.release(ours)
        self.naive.release(naive)

    @invariant()
    def same_to_look_at(self) -> None:
        cache, naive = self.cache, self.naive
        assert (cache.blank, cache.idle) == (naive.blank, len(naive.order))
        assert cache.held == sum(holders > 0 for holders in naive.holders.values()) + 12 - naive.blank - len(
            naive.holders
        )
        assert evicted(cache) == naive.removed
        assert [h for event in cache.events if isinstance(event, Stored) for h in event.hashes] == naive.stored
        for hashes in self.chains[-8:]:
            assert cache.resident(hashes) == naive.resident(hashes)


TestBlockCacheAgainstNaive = BlockCacheAgainstNaive.TestCase
TestBlockCacheAgainstNaive.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)
