"""Prefix keys follow the blocks they lie in."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from invariants import check

from pointsman.contract.prefix_keys import BOUNDARIES, MAX_KEYS
from pointsman.engine.attribution import Attribution, KeyDepths
from pointsman.engine.sim.blocks import BlockCache, Removed, Stored

KEYS = [101, 102, 103]
DEPTHS = [2, 4, 6]
CHAIN = [11, 12, 13, 14, 15, 16]


def test_keys_end_where_their_share_of_the_prompt_does() -> None:
    """4,096 bytes are 1,024 tokens, so key 3, which ends at 2,048 bytes, covers 512 tokens: 32 blocks of 16."""
    assert KeyDepths().blocks([*KEYS, 104], 4096, 1024, 16) == [8, 16, 24, 32]
    assert KeyDepths().blocks(KEYS[:2], 4096, 3, 16) == [1, 1]


def test_the_ends_of_earlier_prompts_are_known() -> None:
    """The first turn is dense (2 bytes a token), what the second adds is not (8): each has its own slope."""
    depths = KeyDepths()
    assert depths.blocks(KEYS[:2], 1024, 512, 16) == [16, 32]
    # 1,024 bytes more are 128 tokens more.
    assert depths.blocks([*KEYS, 104], 2048, 640, 16) == [16, 32, 36, 40]
    # Nothing is known of another chain, and a count no prompt of this length can have is not believed.
    assert depths.blocks([201, 202], 1024, 256, 16) == [8, 16]
    assert depths.blocks(KEYS[:2], 1024, 256, 16) == [8, 16]


@given(
    turns=st.lists(st.tuples(st.integers(1, 40), st.integers(1, 9_000)), min_size=1, max_size=6),
    block_size=st.sampled_from([1, 16, 128]),
)
def test_depths_never_fall(turns: list[tuple[int, int]], block_size: int) -> None:
    """Whatever conversations grow by: deeper keys are no shallower, none beyond the prompt, and anchors are few."""
    depths = KeyDepths(max_anchors=4)
    keys: list[int] = []
    tokens = 0
    for more_keys, more_tokens in turns:
        keys = list(range(min(len(keys) + more_keys, MAX_KEYS)))
        tokens += more_tokens
        found = depths.blocks(keys, BOUNDARIES[len(keys) - 1] + 7, tokens, block_size)
        assert len(found) == len(keys)
        assert found == sorted(found)
        assert found[0] >= 1 and found[-1] <= max(1, tokens // block_size)
        assert len(depths) <= 4


def test_a_key_comes_and_goes_with_its_block() -> None:
    """With the chain known beforehand, as in the simulated engine."""
    attribution = Attribution()
    attribution.begin("r", KEYS, DEPTHS, CHAIN)
    attribution.stored(CHAIN[:4], None)
    assert attribution.take() == ([101, 102], [])
    attribution.stored(CHAIN[4:], CHAIN[3])
    attribution.removed([16, 15, 14])
    assert attribution.take() == ([], [103, 102])
    assert attribution.resident() == [101]
    check(attribution)


def test_blocks_are_found_by_their_request_and_their_parents() -> None:
    """Depths are counted from the parent on; what was resident before is found upwards."""
    attribution = Attribution()
    attribution.stored(CHAIN[:3], None, "unknown")
    attribution.begin("r", KEYS, DEPTHS)
    assert attribution.take() == ([], [])
    attribution.stored(CHAIN[3:5], CHAIN[2], "r")
    assert sorted(attribution.take()[0]) == [101, 102]
    attribution.stored(CHAIN[5:], CHAIN[4], "r")
    assert attribution.take() == ([103], [])
    check(attribution)


def test_a_prefix_that_goes_while_its_request_waits_is_found_again() -> None:
    """Resident when it came, evicted before its turn, computed by it; and so after a preemption."""
    attribution = Attribution()
    attribution.begin("a", KEYS, DEPTHS)
    attribution.stored(CHAIN, None, "a")
    attribution.finish("a")
    attribution.begin("b", KEYS, DEPTHS)
    attribution.take()
    for _ in range(2):
        attribution.removed(CHAIN[:1:-1])
        assert attribution.take() == ([], [103, 102])
        attribution.stored(CHAIN[2:], CHAIN[1], "b")
        assert attribution.take() == ([102, 103], [])
    check(attribution)


def test_requests_survive_a_cache_that_is_cleared_late() -> None:
    """vLLM reports a reset with the next step: requests that came in between are computed after it."""
    attribution = Attribution()
    attribution.begin("a", KEYS, DEPTHS)
    attribution.stored(CHAIN, None, "a")
    attribution.begin("b", KEYS, DEPTHS)
    attribution.take()
    attribution.cleared()
    attribution.stored(CHAIN[:3], None, "b")
    assert attribution.take() == ([101], [102, 103])
    attribution.stored(CHAIN[3:], CHAIN[2], "b")
    assert attribution.take() == ([102, 103], [])
    check(attribution)


def test_a_block_is_gone_with_its_last_copy() -> None:
    """vLLM keeps content twice that was computed twice at once, and reports both."""
    attribution = Attribution()
    attribution.begin("r", KEYS[:1], DEPTHS[:1], CHAIN)
    for _ in range(2):
        attribution.stored(CHAIN[:2], None)
    attribution.removed([12])
    assert attribution.take() == ([101], [])
    attribution.removed([12])
    assert attribution.take() == ([], [101])
    attribution.removed([12, 99])
    assert attribution.take() == ([], [])


def test_bodies_that_differ_may_share_blocks() -> None:
    """Two spellings of one prompt have keys of their own and one chain; both stand for it."""
    attribution = Attribution()
    attribution.begin("a", KEYS, DEPTHS, CHAIN)
    attribution.stored(CHAIN, None)
    attribution.begin("b", [201, 202], [2, 4], CHAIN)
    assert attribution.take() == ([101, 102, 103, 201, 202], [])
    attribution.removed([16, 15, 14])
    assert sorted(attribution.take()[1]) == [102, 103, 202]
    check(attribution)


def test_what_a_request_never_computed_is_given_up_at_its_end() -> None:
    """Nothing is left of an aborted request, and another may claim the keys."""
    attribution = Attribution()
    attribution.begin("r", KEYS, DEPTHS, CHAIN)
    attribution.finish("r")
    attribution.stored(CHAIN, None)
    assert attribution.take() == ([], [])
    assert repr(attribution) == "Attribution(6 blocks, 0 keys, 0 requests)"
    attribution.begin("again", KEYS, DEPTHS, CHAIN)
    assert attribution.take() == (KEYS, [])


def test_clearing_evicts_everything() -> None:
    """As `/reset_prefix_cache` does."""
    attribution = Attribution()
    attribution.begin("r", KEYS, DEPTHS, CHAIN)
    attribution.stored(CHAIN, None)
    attribution.take()
    attribution.cleared()
    assert attribution.take() == ([], KEYS)
    assert attribution.resident() == []


def test_keys_beyond_the_limit_are_not_claimed() -> None:
    """Keys that came first are known."""
    attribution = Attribution(max_keys=2)
    attribution.begin("r", KEYS, DEPTHS, CHAIN)
    attribution.stored(CHAIN, None)
    assert attribution.take() == ([101, 102], [])


def prompt(number: int) -> list[int]:
    """One of four chains of eight blocks in two trees."""
    return [1000 * (number % 2) + (100 * number if at >= 3 else 0) + at + 1 for at in range(8)]


class BehindACache(RuleBasedStateMachine):
    """Random requests through the simulated engine's block cache: residency is what the cache says it is."""

    def __init__(self) -> None:
        super().__init__()
        self.cache = BlockCache(14)
        self.attribution = Attribution()
        self.known: set[int] = set()
        self.leases: dict[str, tuple[object, list[int]]] = {}
        self.count = 0

    def follow(self) -> None:
        events, self.cache.events = self.cache.events, []
        for event in events:
            if isinstance(event, Stored):
                self.attribution.stored(event.hashes, event.parent)
            elif isinstance(event, Removed):
                self.attribution.removed(event.hashes)
        stored, evicted = self.attribution.take()
        self.known |= set(stored)
        self.known -= set(evicted)

    @rule(number=st.integers(0, 3))
    def begin(self, number: int) -> None:
        chain = prompt(number)
        lease = self.cache.admit(chain, 7, 8)
        if lease is None:
            return
        self.count += 1
        name = f"r{self.count}"
        self.attribution.begin(name, [block + 5_000 for block in chain[1::2]], [2, 4, 6, 8], chain)
        assert self.cache.grow(lease, chain, 8 * 4, 4)
        self.leases[name] = (lease, chain)
        self.follow()

    @rule()
    def end(self) -> None:
        if self.leases:
            name = next(iter(self.leases))
            lease, _ = self.leases.pop(name)
            self.cache.release(lease)  # type: ignore[arg-type]
            self.attribution.finish(name)
            self.follow()

    @invariant()
    def residency_is_the_cache_s(self) -> None:
        check(self.attribution)
        assert set(self.attribution.resident()) == self.known
        for number in range(4):
            chain = prompt(number)
            depth = self.cache.resident(chain)
            for at in (1, 3, 5, 7):
                if chain[at] + 5_000 in self.known:
                    assert at < depth, "a key is resident and its block is not"


BehindACache.TestCase.settings = settings(max_examples=50, stateful_step_count=30)
TestBehindACache = BehindACache.TestCase
