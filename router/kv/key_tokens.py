"""Tokens behind prefix keys: how much of a prompt a replica holds that holds some of its keys.

Keys lie some hundred bytes apart at a prompt's head and 4 KiB at its end, and a byte is no fixed share of a token. What
is known, best first:

- **Told.** Engines say with each key they store how many tokens the prefix has that it names.
- **Found.** Prompts that part behind the same key (one system prompt, many questions) part at the same token: the next
  one finds what the last one found.
- **The conversation.** At its home all of its last prompt and answer is resident unless a key of it is gone, since
  caches evict from the end.
- **The middle.** Otherwise the end lies anywhere between the last key that is resident and the first that is not.

What nobody told goes by bytes: from the nearest key below that is told on, else from the conversation's last prompt.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pointsman.contract.prefix_keys import BOUNDARIES
from pointsman.policies.candidates import NOTHING_RESIDENT, Residency, Slots, names
from pointsman.router.kv.conversation import Conversation
from pointsman.router.kv.prefix_index import Level

MAX_TOLD_KEYS = 262_144
"""Limit of keys told of: about 25 MB, 250 replicas of 500,000 tokens. When met, the half told longest ago goes."""

MAX_FOUND_KEYS = 65_536
"""Limit of keys found. When met, the half found longest ago goes."""

SLACK_TOKENS = 64
"""Tokens by which a prompt's end may lie behind a key it ends before: lengths not told yet are guesses."""


class _Latest:
    """A bounded map that keeps at least the latest half of what was put into it."""

    __slots__ = ("_half", "_older", "_recent")

    def __init__(self, limit: int) -> None:
        self._half = limit // 2
        self._recent: dict[int, int] = {}
        self._older: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._recent) + len(self._older)

    def get(self, key: int) -> int | None:
        value = self._recent.get(key)
        return self._older.get(key) if value is None else value

    def deepest(self, keys: Sequence[int], at: int) -> tuple[int, int] | None:
        """Number and value of the last of the keys up to number `at` that has one."""
        recent, older = self._recent, self._older
        if recent or older:
            for number in range(at, -1, -1):
                key = keys[number]
                value = recent.get(key)
                if value is None:
                    value = older.get(key)
                if value is not None:
                    return number, value
        return None

    def put(self, key: int, value: int) -> None:
        self._recent[key] = value
        if len(self._recent) >= self._half:
            self._recent, self._older = {}, self._recent


class KeyTokens:
    """Lengths of keys, in tokens. One owner for all replicas: a key names one text."""

    def __init__(self) -> None:
        self._told = _Latest(MAX_TOLD_KEYS)
        self._found = _Latest(MAX_FOUND_KEYS)

    def __repr__(self) -> str:
        return f"KeyTokens({len(self._told)} told, {len(self._found)} found)"

    def __len__(self) -> int:
        return len(self._told)

    # What engines say

    def told(self, keys: Sequence[int], tokens: Sequence[int]) -> None:
        """Learn the lengths of the prefixes of keys that an engine stored."""
        put = self._told.put
        for key, length in zip(keys, tokens, strict=False):
            put(key, length)

    def found(self, keys: Sequence[int], at: int, cached_tokens: int, per_byte: float) -> None:
        """Learn how many tokens a prompt found where a replica held its keys up to number `at`."""
        low = self._told.get(keys[at])
        if low is not None and at + 1 < len(keys):
            high = _tokens(self._told.deepest(keys, at + 1), at + 1, per_byte)
            if low <= cached_tokens <= high + SLACK_TOKENS:
                self._found.put(keys[at], cached_tokens)

    # What a decision reads

    def measure(
        self,
        keys: Sequence[int],
        levels: Sequence[Level],
        size: int,
        per_byte: float,
        known: Conversation | None,
        *,
        continues: bool,
    ) -> tuple[int, Residency]:
        """Return the length of a prompt of `size` bytes, and how much of it is resident where `levels` of it are.

        `known` is its conversation; `continues` says that the prompt is the next one of it, whole.
        """
        before, before_bytes = 0.0, 0
        if known is not None:
            before_bytes = known.prompt_bytes
            before = known.prompt_tokens or before_bytes * per_byte
        length = self._length(keys, levels, size, per_byte, known, before)
        at_home = continues and known is not None
        if not levels and not at_home:
            return length, NOTHING_RESIDENT
        resident: list[Level] = []
        for at, slots in levels:
            told = self._told.deepest(keys, at)
            low, high = _tokens(told, at, per_byte, before, before_bytes), float(length)
            if at + 1 < len(keys):
                above: float | None = self._told.get(keys[at + 1])
                if above is None:
                    above = _tokens(told, at + 1, per_byte, before, before_bytes)
                high = min(high, above)
            if at_home and known is not None and names(slots, known.slot):
                at_home = False
                if low - SLACK_TOKENS <= before <= high + SLACK_TOKENS:
                    resident.append((min(known.tokens, length - 1), [known.slot]))
                    slots = _without(slots, known.slot)
                    if not len(slots):
                        continue
            found = self._found.get(keys[at])
            held = found if found is not None and low <= found <= high + SLACK_TOKENS else int((low + high) / 2)
            resident.append((max(0, min(held, length - 1)), slots))
        if at_home and known is not None and known.tail_at < 0:
            # A prompt too short for keys: nobody says that it is gone.
            resident.append((min(known.tokens, length - 1), [known.slot]))
        return length, Residency(resident)

    def _length(
        self,
        keys: Sequence[int],
        levels: Sequence[Level],
        size: int,
        per_byte: float,
        known: Conversation | None,
        before: float,
    ) -> int:
        if known is not None:
            added = size - known.prompt_bytes
            return max(1, int(before + added * per_byte if added >= 0 else size * before / known.prompt_bytes))
        if not levels:
            return max(1, int(size * per_byte))
        at = levels[0][0]
        prefix = _tokens(self._told.deepest(keys, at), at, per_byte)
        return max(1, int(prefix + (size - BOUNDARIES[at]) * per_byte))


def _tokens(
    told: tuple[int, int] | None, at: int, per_byte: float, before: float = 0.0, before_bytes: int = 0
) -> float:
    """Length of the prefix that key number `at` names. `told` is the last key up to there whose length is known,
    `before` what the conversation's last prompt of so many bytes has."""
    boundary = BOUNDARIES[at]
    if told is not None:
        below, tokens = told
        return tokens + (boundary - BOUNDARIES[below]) * per_byte
    if boundary <= before_bytes:
        return boundary * before / before_bytes
    return before + (boundary - before_bytes) * per_byte


def _without(slots: Sequence[int] | Slots, slot: int) -> Sequence[int] | Slots:
    return slots[slots != slot] if isinstance(slots, np.ndarray) else [other for other in slots if other != slot]
