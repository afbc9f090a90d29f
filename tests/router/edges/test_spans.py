"""Which batches of a stream are known: spans of numbers, few of them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pointsman.router.edges.spans import MAX_SPANS, Spans

SPAN = st.tuples(st.integers(0, 40), st.integers(0, 12)).map(lambda span: (span[0], span[0] + span[1]))


def spans(*pairs: tuple[int, int]) -> Spans:
    made = Spans()
    for after, to in pairs:
        made.add(after, to)
    return made


@given(st.lists(SPAN, max_size=12), st.lists(SPAN, max_size=4))
def test_spans_are_the_numbers_in_them(pairs: list[tuple[int, int]], others: list[tuple[int, int]]) -> None:
    """Whatever the order they are added in, and as little as can be said of them."""
    known = {number for after, to in pairs for number in range(after + 1, to + 1)}
    made, other = spans(*pairs), spans(*others)
    bounds = made.bounds
    assert bounds == sorted(set(bounds)) and len(bounds) % 2 == 0
    assert known == {n for after, to in zip(bounds[::2], bounds[1::2], strict=True) for n in range(after + 1, to + 1)}
    for seq in range(60):
        assert made.known_to(seq) == next(n for n in range(seq, 99) if n + 1 not in known)
    assert made.cover(other.bounds) == ({n for after, to in others for n in range(after + 1, to + 1)} <= known)
    made.add_all(other.bounds)
    assert made.cover(other.bounds) and made.cover(bounds)


def test_what_is_read_in_order_is_one_span() -> None:
    """However long it is."""
    made = Spans()
    for seq in range(3, 1000):
        made.add(seq - 1, seq)
    assert made.bounds == [2, 999] and repr(made) == "Spans(3 to 999)"


def test_the_earliest_spans_are_left_out_beyond_the_limit() -> None:
    """And are missed no more: two that told each other all do not ask each other for what neither keeps."""
    a, b = Spans(), Spans()
    for number in range(MAX_SPANS):
        a.add(10 * number, 10 * number + 1)
        b.add(10 * number + 5, 10 * number + 6)
    assert not a.cover(b.bounds) and not b.cover(a.bounds)
    told = b.bounds
    b.add_all(a.bounds)
    a.add_all(told)
    assert a.bounds == b.bounds and len(a.bounds) == 2 * MAX_SPANS
    assert a.cover(told) and a.cover([0, 1])
    a.add(0, 1)
    assert a.bounds == b.bounds
    assert not a.cover([10 * MAX_SPANS, 10 * MAX_SPANS + 1])


def test_bounds_that_make_no_sense_are_no_numbers() -> None:
    """They come from others."""
    made = spans((3, 5))
    made.add_all([9, 2, 4])
    assert made.bounds == [3, 5]
    assert made.cover([9, 2, 4]) and made.cover([])
