"""The router's own guess of what an endpoint holds that tells nothing."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from invariants import check

from pointsman.router.kv.cache_mirror import LEAST_TOKENS, CacheMirror


def test_what_was_asked_for_longest_ago_goes_tail_first() -> None:
    """Room for five of 100 tokens: the second prompt shares the first key with the first, whose tail goes."""
    mirror = CacheMirror(500)
    assert mirror.enter([1, 2, 3], [100, 100, 100], 0) == []
    assert mirror.enter([1, 12, 13, 14], [100, 100, 100, 100], 100) == [3]
    assert mirror.enter([1, 2], [100, 100], 200) == []
    assert mirror.enter([21], [300], 0) == [14, 13, 12]
    check(mirror)


def test_a_prompt_larger_than_the_cache_keeps_its_head() -> None:
    """What it pushes out is its own tail."""
    mirror = CacheMirror(250)
    assert mirror.enter([1, 2, 3], [100, 100, 100], 0) == [3]
    check(mirror)


def test_hits_that_do_not_come_make_it_smaller() -> None:
    """And it grows again, up to the endpoint's own size, when they come as foreseen."""
    mirror = CacheMirror(1000)
    assert mirror.hit(5_000) == []  # of a life before it was looked at
    mirror.enter([1], [900], 2 * LEAST_TOKENS)
    mirror.enter([2], [50], 0)
    assert mirror.hit(5_000 + LEAST_TOKENS) == [1]
    assert mirror.limit == 900
    total = 5_000 + LEAST_TOKENS
    for _ in range(20):
        mirror.enter([2], [50], LEAST_TOKENS)
        total += LEAST_TOKENS
        mirror.hit(total)
    assert mirror.limit == 1000
    for _ in range(100):
        mirror.enter([2], [50], LEAST_TOKENS)
        mirror.hit(total)
    assert mirror.limit == 100


def test_few_hits_foreseen_say_nothing() -> None:
    """They are gathered until they do."""
    mirror = CacheMirror(1000)
    mirror.hit(0)
    for _ in range(3):
        mirror.enter([1], [1], LEAST_TOKENS // 3)
        mirror.hit(0)
    assert mirror.limit == 1000
    mirror.enter([1], [1], LEAST_TOKENS // 3)
    mirror.hit(0)
    assert mirror.limit == 900


def test_it_can_be_resized() -> None:
    """The endpoint came back with less."""
    mirror = CacheMirror(1000)
    mirror.enter([1, 2, 3], [300, 300, 300], 0)
    assert mirror.resize(600) == [3]
    assert mirror.capacity == 600


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(1, 6), st.integers(1, 400), st.integers(0, 5_000))),
    st.integers(1, 3_000),
)
def test_the_sum_holds(prompts: list[tuple[int, int, int, int]], capacity: int) -> None:
    """Whatever comes: each key once, never more than there is room for, and what is named as gone is gone."""
    mirror = CacheMirror(capacity)
    held: set[int] = set()
    hits = 0
    for family, keys, tokens, found in prompts:
        chain = [100 * family + at for at in range(keys)]
        held |= set(chain)
        held -= set(mirror.enter(chain, [tokens] * keys, found))
        hits += found // 2
        held -= set(mirror.hit(hits))
        check(mirror)
        assert len(mirror._weights) == len(held)
