"""Virtual time: a heap of moments at which something happens, played in their order."""

from __future__ import annotations

import heapq
from collections.abc import Callable

Action = Callable[[float], None]
"""Something that happens, given the moment in seconds."""


class VirtualClock:
    """Moments to come, and numbers that count up through a run. Actions of one moment happen in the order of `at`."""

    def __init__(self) -> None:
        self._moments: list[tuple[float, int, Action]] = []
        self._numbers = 0

    def at(self, at_s: float, action: Action) -> None:
        """Have `action` happen at a moment."""
        self._numbers += 1
        heapq.heappush(self._moments, (at_s, self._numbers, action))

    def number(self) -> int:
        """Return a number that no other call returns."""
        self._numbers += 1
        return self._numbers - 1

    def run(self) -> None:
        """Play all moments, those that actions add included."""
        moments, pop = self._moments, heapq.heappop
        while moments:
            now_s, _, action = pop(moments)
            action(now_s)
