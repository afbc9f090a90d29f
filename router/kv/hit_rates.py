"""Hit rates: the share of the prompts on each replica that was cached lately, as its engine found and as predicted.

`HitRates` owns three sums a slot. They cover the window that runs and the one before it, so that a rate is of the last
one to two minutes, and nothing has to be forgotten token by token.
"""

from __future__ import annotations

import math
from typing import NamedTuple

WINDOW_S = 60.0
"""Length of a window: long enough for some requests of a quiet replica, short enough to show what a change did."""


_NONE = (0, 0, 0)


class HitRate(NamedTuple):
    """Shares of the prompt tokens of one replica."""

    actual: float
    """Share that its engine found in the prefix cache."""
    predicted: float
    """Share that was predicted when the requests were placed."""


class HitRates:
    """Sums by slot."""

    def __init__(self) -> None:
        self._sums: dict[int, list[int]] = {}
        """Prompt tokens, cached tokens and predicted tokens in the window that runs."""
        self._before: dict[int, list[int]] = {}
        self._ends_s = -math.inf

    def __repr__(self) -> str:
        return f"HitRates({len(self._sums)} replicas)"

    def saw(self, slot: int, prompt: int, cached: int, predicted: int) -> None:
        """Counts one prompt whose first token an engine reported, in tokens."""
        sums = self._sums.get(slot)
        if sums is None:
            sums = self._sums[slot] = [0, 0, 0]
        sums[0] += prompt
        sums[1] += cached
        sums[2] += predicted

    def clear_slot(self, slot: int) -> None:
        """Forgets a replica that left, or whose engine restarted."""
        self._sums.pop(slot, None)
        self._before.pop(slot, None)

    def expire(self, now_s: float) -> None:
        """Begins another window when it is time; called a few times a second."""
        if now_s >= self._ends_s:
            # After a long pause the window that ends is no recent one.
            self._before = self._sums if now_s < self._ends_s + WINDOW_S else {}
            self._sums = {}
            self._ends_s = now_s + WINDOW_S

    def of(self, slot: int) -> HitRate | None:
        """Return the hit rate of a replica; None where no prompt was reported lately."""
        before, sums = self._before.get(slot, _NONE), self._sums.get(slot, _NONE)
        prompt = before[0] + sums[0]
        return HitRate((before[1] + sums[1]) / prompt, (before[2] + sums[2]) / prompt) if prompt else None
