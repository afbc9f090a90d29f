"""Estimated cache of an endpoint that reports nothing: a least-recently-used cache of the endpoint's size.

`CacheMirror` is kept for one endpoint whose capacity is known (read off its metrics) and that does not report its KV.
Every prompt sent there enters it, as keys of so many tokens each, and pushes out what was asked for longest ago, the
tails of prompts first, as engines do. What an endpoint says of its hits keeps the mirror honest: one that hits less
than it was believed to has less room than was thought (others send to it too, answers are long): the mirror shrinks.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

LEAST_TRUST = 0.1
"""The mirror never shrinks below a tenth of the endpoint's capacity."""

BELIEVED = 0.9
"""Share of the foreseen hits from which on the mirror is right enough to grow again."""

SHRINK, GROW = 0.9, 1.02

LEAST_TOKENS = 10_000
"""Fewest foreseen hits, in tokens, that say something about the next."""


class CacheMirror:
    """One endpoint's keys, oldest first. Names what comes and goes; whoever owns the index makes it so."""

    def __init__(self, capacity_tokens: int) -> None:
        self.capacity = capacity_tokens
        """Tokens that the endpoint has room for."""
        self._trust = 1.0
        self._weights: OrderedDict[int, int] = OrderedDict()
        self._held = 0
        self._foreseen = 0
        """Tokens that were to be hit since `_hit_before`, the endpoint's own count; -1 until it is known."""
        self._hit_before = -1

    def __repr__(self) -> str:
        return f"CacheMirror({len(self._weights)} keys, {self._held} of {self.limit} tokens)"

    @property
    def limit(self) -> int:
        """Tokens that the mirror holds at most."""
        return int(self.capacity * self._trust)

    def resize(self, capacity_tokens: int) -> list[int]:
        """Set the room of the endpoint; return the keys that no longer fit."""
        self.capacity = capacity_tokens
        return self._evict()

    def enter(self, keys: Sequence[int], tokens: Sequence[int], foreseen: int) -> list[int]:
        """Enter a prompt that goes to the endpoint; return the keys that are pushed out.

        - `tokens`: what each key adds to the one before, the last one with all that follows.
        - `foreseen`: tokens that are expected to be hit.
        """
        weights = self._weights
        # Deepest first: what is entered first goes first.
        for key, added in zip(reversed(keys), reversed(tokens), strict=True):
            self._held += added - weights.pop(key, 0)
            weights[key] = added
        self._foreseen += foreseen
        return self._evict()

    def hit(self, total_tokens: int) -> list[int]:
        """Compare with the tokens that the endpoint found cached in its life; return the keys that no longer fit."""
        if self._hit_before < 0:
            self._hit_before, self._foreseen = total_tokens, 0
        foreseen, found = self._foreseen, total_tokens - self._hit_before
        if foreseen < LEAST_TOKENS:
            return []
        self._hit_before, self._foreseen = total_tokens, 0
        self._trust *= GROW if found >= BELIEVED * foreseen else SHRINK
        self._trust = max(LEAST_TRUST, min(1.0, self._trust))
        return self._evict()

    def _evict(self) -> list[int]:
        gone: list[int] = []
        weights, limit = self._weights, self.limit
        while self._held > limit and weights:
            key, tokens = weights.popitem(last=False)
            self._held -= tokens
            gone.append(key)
        return gone
