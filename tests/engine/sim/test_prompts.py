"""Tokens and hashes: what equal prefixes share, and what they must not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman.engine.sim.prompts import (
    IMAGE_TOKENS,
    TOKEN_BYTES,
    WORDS,
    Answer,
    block_hashes,
    chat_prompt,
    draw_answer,
    text_prompt,
    token_prompt,
)


def user(content: object) -> dict[str, object]:
    """A user's message."""
    return {"role": "user", "content": content}


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        pytest.param("", 0, id="empty"),
        pytest.param("a", 1, id="1 byte"),
        pytest.param("abcde", 2, id="5 bytes"),
        pytest.param("äöü", 2, id="6 bytes of UTF-8"),
        pytest.param("\ud800", 1, id="a lone surrogate"),
    ],
)
def test_four_bytes_are_a_token(text: str, tokens: int) -> None:
    """Rounded up."""
    assert text_prompt(text).tokens == tokens


def test_token_ids_count_as_themselves() -> None:
    """One token each, whatever their value."""
    assert token_prompt([0, 7, 2**32 - 1]).tokens == 3


def test_a_message_costs_its_content_and_its_frame() -> None:
    """'\\x01user' is 2 tokens, 'hello' 2, the end mark 1, '\\x01assistant' 3."""
    assert chat_prompt([user("hello")]).tokens == 2 + 2 + 1 + 3


def test_an_image_costs_a_fixed_number_of_tokens() -> None:
    """Named by its content: equal images are equal tokens."""
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    other = {"type": "image_url", "image_url": {"url": "data:image/png;base64,BBBB"}}
    assert chat_prompt([user([image])]).tokens == 2 + IMAGE_TOKENS + 1 + 3
    assert chat_prompt([user([image])]) == chat_prompt([user([image])])
    assert chat_prompt([user([image])]) != chat_prompt([user([other])])


def test_text_parts_are_text() -> None:
    """A list of one text part is the same prompt as the text."""
    assert chat_prompt([user([{"type": "text", "text": "hello"}])]) == chat_prompt([user("hello")])


@given(turns=st.lists(st.text(max_size=40), min_size=1, max_size=5), seed=st.integers(0, 3))
def test_the_next_turn_begins_with_this_one_and_its_answer(turns: list[str], seed: int) -> None:
    """The words sent back are the tokens that were generated, the end mark included, at any alignment."""
    messages: list[dict[str, object]] = []
    for turn in turns:
        messages.append(user(turn))
        prompt = chat_prompt(messages)
        answer = draw_answer(prompt, 0, seed, mean_tokens=8, limit=10_000, at_least=0)
        assert answer.stops
        messages.append({"role": "assistant", "content": answer.text(0, answer.tokens).decode()})
        assert chat_prompt(messages).data.startswith(prompt.data + answer.data())


def test_hashes_name_whole_prefixes() -> None:
    """A change in the first block changes every hash; one in the last, the last alone. Partial blocks have none."""
    data = bytes(range(64))
    hashes = block_hashes(data, 4)
    assert len(hashes) == 4
    assert len(block_hashes(data[:-1], 4)) == 3
    first, last = b"x" + data[1:], data[:-1] + b"x"
    assert set(block_hashes(first, 4)).isdisjoint(hashes)
    assert block_hashes(last, 4)[:3] == hashes[:3]
    assert block_hashes(last, 4)[3] != hashes[3]


def test_a_salt_keeps_equal_prompts_apart() -> None:
    """No hash in common."""
    data = bytes(64)
    assert set(block_hashes(data, 4, "tenant a")).isdisjoint(block_hashes(data, 4, "tenant b"))


def test_the_same_question_gets_the_same_answer() -> None:
    """Same seed, same prompt; another seed or another choice answers otherwise."""
    prompt = text_prompt("why?")
    one = draw_answer(prompt, 0, 1, 100, 1_000, 0)
    assert one == draw_answer(prompt, 0, 1, 100, 1_000, 0)
    assert one != draw_answer(prompt, 0, 2, 100, 1_000, 0)
    assert one != draw_answer(prompt, 1, 1, 100, 1_000, 0)


def test_lengths_average_what_was_asked_for() -> None:
    """2,000 exponential draws with mean 100: the standard error is 100 / sqrt(2000) = 2.2, so within 10."""
    lengths = [draw_answer(text_prompt(str(n)), 0, 0, 100, 10**9, 0).tokens for n in range(2_000)]
    assert sum(lengths) / len(lengths) == pytest.approx(100, abs=10)


@pytest.mark.parametrize(
    ("mean", "limit", "at_least", "tokens", "stops"),
    [
        pytest.param(0, 50, 0, 50, False, id="it never stops by itself"),
        pytest.param(10**9, 50, 0, 50, False, id="the limit cuts it"),
        pytest.param(1e-9, 50, 0, 1, True, id="the end-of-sequence token alone"),
        pytest.param(1e-9, 50, 20, 20, True, id="not before the minimum"),
    ],
)
def test_what_ends_an_answer(mean: float, limit: int, at_least: int, tokens: int, stops: bool) -> None:
    """Length and whether the last token is the end-of-sequence one."""
    answer = draw_answer(text_prompt("q"), 0, 0, mean, limit, at_least)  # type: ignore[arg-type]
    assert (answer.tokens, answer.stops) == (tokens, stops)


def test_text_in_pieces_is_the_text() -> None:
    """Any cut; the end-of-sequence token adds nothing."""
    answer = Answer(start=3, stride=5, tokens=9, stops=True)
    assert answer.text(0, 4) + answer.text(4, 9) == answer.text(0, 9)
    assert len(answer.text(0, 9)) == 8 * TOKEN_BYTES
    assert len(answer.data()) == 9 * TOKEN_BYTES


def test_words_stand_in_json_as_they_are() -> None:
    """Four bytes, no escapes, no two alike."""
    assert len(set(WORDS)) == 64
    assert all(word.isascii() and len(word) == 4 and not set(word) & set(b'"\\') for word in WORDS)
