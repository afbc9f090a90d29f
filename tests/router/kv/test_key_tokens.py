"""From keys to tokens: what was told, found, kept by a conversation, or lies in the middle."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman.contract.prefix_keys import BOUNDARIES
from pointsman.router.kv import key_tokens
from pointsman.router.kv.columns import KVColumns
from pointsman.router.kv.conversation import Conversation
from pointsman.router.kv.conversations import Conversations
from pointsman.router.kv.key_tokens import KeyTokens

CHAIN = list(range(1000, 1040))
SIZE = 10 * 512 + 100
"""Of a prompt with ten keys."""


def conversation(
    keys: int = 8, prompt_bytes: int = 8 * 512 + 100, tokens: int = 1000, answer: int = 50
) -> Conversation:
    """One on slot 2, whose last prompt and answer were these."""
    columns = KVColumns()
    columns.add_slot(2)
    table = Conversations(columns)
    made = table.place(None, "s", 2, CHAIN[:keys], tokens=tokens, resident=0, prompt_bytes=prompt_bytes, now_s=0.0)
    assert made is not None
    table.told(made, 2, prompt_bytes, tokens, answer)
    return made


def held(
    kept: KeyTokens, *levels: tuple[int, list[int]], keys: int = 10, known: Conversation | None = None, size: int = SIZE
) -> dict[int, int]:
    """Resident tokens by slot of a prompt of 4 bytes a token."""
    _, resident = kept.measure(CHAIN[:keys], levels, size, 0.25, known, continues=known is not None)
    return {slot: tokens for tokens, slots in resident.levels for slot in slots}


def test_without_a_word_from_anybody_bytes_count() -> None:
    """Key 3 ends at 2,048 bytes, 512 tokens, key 4 128 tokens on: the end lies between them."""
    assert held(KeyTokens(), (3, [1])) == {1: 576}
    # All keys are held: the end is that of the prompt, less the token that is always computed.
    assert held(KeyTokens(), (9, [1]), size=10 * 512) == {1: 1279}


def test_what_engines_told_counts() -> None:
    """This text is dense: two bytes a token up to key 3; what follows goes by the usual ratio from there."""
    kept = KeyTokens()
    kept.told(CHAIN[:4], [256, 512, 768, 1024])
    assert held(kept, (3, [1])) == {1: 1024 + 64}
    assert held(kept, (1, [1])) == {1: 640}
    assert held(kept, (5, [1])) == {1: 1024 + 2 * 128 + 64}
    length, _ = kept.measure(CHAIN[:10], [(3, [1])], SIZE, 0.25, None, continues=False)
    assert length == 1024 + (SIZE - 2048) // 4


def test_prompts_that_part_behind_one_key_part_at_one_token() -> None:
    """A system prompt of 1,100 tokens: the first question found it, the next one is told; nonsense is not learned."""
    kept = KeyTokens()
    kept.told(CHAIN[:4], [256, 512, 768, 1024])
    kept.found(CHAIN[:10], 3, 1100, 0.25)
    assert held(kept, (3, [1, 2])) == {1: 1100, 2: 1100}
    kept.found(CHAIN[:10], 3, 40, 0.25)
    kept.found(CHAIN[:10], 3, 4000, 0.25)
    assert held(kept, (3, [1])) == {1: 1100}
    # Another prompt follows the same keys further, so its own next key says where it ends.
    kept.told(CHAIN[4:5], [1060])
    assert held(kept, (3, [1])) == {1: 1100}
    kept.told(CHAIN[4:5], [1030])
    assert held(kept, (3, [1])) == {1: 1027}


def test_at_home_all_is_there_unless_a_key_is_gone() -> None:
    """Key 7 is the last that the previous prompt and this one share."""
    kept = KeyTokens()
    kept.told(CHAIN[:8], [122 * at for at in range(1, 9)])
    known = conversation()
    assert held(kept, (7, [2]), known=known) == {2: 1050}
    assert held(kept, (7, [1, 2, 3]), known=known)[1] < 1050
    # Its tail went: the end lies between keys 4 and 5.
    assert held(kept, (4, [2]), known=known) == {2: 671}
    # Someone else holds more than the home.
    assert held(kept, (7, [1]), (4, [2]), known=known)[2] == 671


def test_a_conversation_without_keys_is_at_home_until_told() -> None:
    """Its prompts are shorter than the first key's end."""
    known = conversation(0, 300, 80, 10)
    assert held(KeyTokens(), keys=0, known=known, size=400) == {2: 90}
    assert held(KeyTokens(), keys=0, size=400) == {}


def test_lengths_go_on_from_the_last_prompt() -> None:
    """1,000 tokens and 924 bytes more; or by proportion, for an edited one that is shorter."""
    kept, known = KeyTokens(), conversation()
    assert kept.measure(CHAIN[:10], [], SIZE, 0.25, known, continues=True)[0] == 1000 + (SIZE - 4196) // 4
    assert kept.measure(CHAIN[:4], [], 2098, 0.25, known, continues=False)[0] == 500


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The latest half at least is known."""
    monkeypatch.setattr(key_tokens, "MAX_TOLD_KEYS", 100)
    kept = KeyTokens()
    kept.told(range(1000), range(1000))
    assert len(kept) <= 100
    assert held_by(kept, range(951, 1000)) == list(range(951, 1000))


def held_by(kept: KeyTokens, keys: range) -> list[int | None]:
    return [kept._told.get(key) for key in keys]


@given(
    told=st.lists(st.tuples(st.sampled_from(CHAIN), st.integers(0, 5000))),
    found=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 5000))),
    at=st.lists(st.integers(0, 9), max_size=3, unique=True),
    size=st.integers(1, 20_000),
    known=st.booleans(),
)
def test_whatever_is_told_predictions_fit_the_prompt(
    told: list[tuple[int, int]], found: list[tuple[int, int]], at: list[int], size: int, known: bool
) -> None:
    """Each slot once, never less than nothing or more than all but one token."""
    kept = KeyTokens()
    kept.told([key for key, _ in told], [tokens for _, tokens in told])
    for number, tokens in found:
        kept.found(CHAIN[:10], number, tokens, 0.25)
    levels = [(deepest, [slot]) for slot, deepest in enumerate(sorted(at, reverse=True))]
    size = max(size, BOUNDARIES[9])
    length, resident = kept.measure(CHAIN[:10], levels, size, 0.25, conversation() if known else None, continues=known)
    assert length >= 1
    assert sorted(slot for _, slots in resident.levels for slot in slots) == [slot for slot, _ in enumerate(levels)]
    assert all(0 <= tokens < length for tokens, _ in resident.levels)
