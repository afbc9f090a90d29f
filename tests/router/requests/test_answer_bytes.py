"""Tokens of an answer by its bytes."""

from __future__ import annotations

from ring_line import line

from pointsman.router.requests.answer_bytes import HEAD_BYTES, AnswerBytes
from pointsman.router.requests.end_line import Line, decode_line


def answer(size: int, *, streamed: bool = True, **fields: object) -> Line:
    return decode_line(line(bytes=size, sse="1" if streamed else "-", **fields))


def test_streamed_answers_are_learned_apart_from_whole_ones() -> None:
    """After many answers an estimate is what they were."""
    learned = AnswerBytes()
    for _ in range(500):
        learned.observe(answer(HEAD_BYTES + 100 * 300), 100)
        learned.observe(answer(HEAD_BYTES + 100 * 6, streamed=False), 100)
    assert learned.tokens(answer(HEAD_BYTES + 50 * 300)) == 50
    assert learned.tokens(answer(HEAD_BYTES + 50 * 6, streamed=False)) == 50


def test_answers_that_teach_nothing_are_passed_over() -> None:
    """Short ones, those that were cut, and those that are no text."""
    learned, fresh = AnswerBytes(), AnswerBytes()
    learned.observe(answer(50_000), 2)
    learned.observe(answer(50_000, ts="CD"), 100)
    learned.observe(answer(10**9), 10)
    learned.observe(answer(100), 10)
    assert (learned.streamed, learned.whole) == (fresh.streamed, fresh.whole)
    assert learned.tokens(answer(10)) == 0
