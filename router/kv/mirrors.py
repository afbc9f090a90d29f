"""The mirrors of all endpoints that tell nothing themselves, by slot, kept in step with the prefix index.

`Mirrors` owns one `CacheMirror` for each such endpoint whose capacity is known, and writes to the index what each of
them takes in and pushes out. An endpoint that begins to tell for itself gets no mirror any more.
"""

from __future__ import annotations

from collections.abc import Sequence

from pointsman.contract.prefix_keys import BOUNDARIES, CHUNK_BYTES
from pointsman.router.kv.cache_mirror import CacheMirror
from pointsman.router.kv.parts import Prompt
from pointsman.router.kv.prefix_index import PrefixIndex

ANSWER_TOKENS = 256
"""Tokens that an answer adds to the KV of an endpoint that does not report them."""


class Mirrors:
    """Mirrors by slot."""

    def __init__(self, index: PrefixIndex) -> None:
        self._index = index
        self._mirrors: dict[int, CacheMirror] = {}

    def sized(self, slot: int, capacity_tokens: int) -> None:
        """Mirror an endpoint that has room for so many tokens, more than 0; said once or again."""
        mirror = self._mirrors.get(slot)
        if mirror is None:
            self._mirrors[slot] = CacheMirror(capacity_tokens)
        elif mirror.capacity != capacity_tokens:
            self._evict(slot, mirror.resize(capacity_tokens))

    def hit(self, slot: int, total_tokens: int) -> None:
        """Compare an endpoint's own count of cached tokens with the mirror; no effect on a slot without a mirror."""
        mirror = self._mirrors.get(slot)
        if mirror is not None:
            self._evict(slot, mirror.hit(total_tokens))

    def enter(self, slot: int, keys: Sequence[int], start: int, prompt: Prompt) -> bool:
        """Enter a prompt whose keys before `start` a slot holds already; False where nothing mirrors the slot."""
        mirror = self._mirrors.get(slot)
        if mirror is None:
            return False
        per_byte = prompt.tokens / max(1, BOUNDARIES[len(keys) - 1])
        added = [int(chunk * per_byte) for chunk in CHUNK_BYTES[: len(keys)]]
        added[-1] += ANSWER_TOKENS
        gone = mirror.enter(keys, added, prompt.resident.tokens(slot))
        for key in keys[start:]:
            self._index.stored(slot, key)
        self._evict(slot, gone)
        return True

    def restarted(self, slot: int) -> None:
        """Empty the mirror of a slot."""
        mirror = self._mirrors.get(slot)
        if mirror is not None:
            self._mirrors[slot] = CacheMirror(mirror.capacity)

    def drop(self, slot: int) -> bool:
        """End the mirror of an endpoint that left or tells for itself; False without one. The index is the caller's."""
        return self._mirrors.pop(slot, None) is not None

    def _evict(self, slot: int, keys: Sequence[int]) -> None:
        for key in keys:
            self._index.evicted(slot, key)
