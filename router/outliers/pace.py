"""Decoding speed of each replica against the others of its model: a replica that is slow but alive is a gray failure.

The measure is the gap between tokens, as a ratio of decayed sums (milliseconds of decoding over tokens, or over bytes
where an endpoint reports no tokens), so that one long answer counts as much as many short ones. A replica is compared
with the median of all replicas of its model that were measured the same way. The time to the first token is no measure
here: queues and caches differ between healthy replicas by more than gray failures do. Where a policy goes by KV, the
time a replica takes to prefill is learned of requests that found no queue, and compared alike (`over_median`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from enum import Enum
from statistics import median
from typing import NamedTuple


class Unit(Enum):
    """Unit of a decoding speed; two replicas compare only in the same unit."""

    TOKENS = 0
    """As counted by the engine."""
    BYTES = 1
    """Of a streamed answer, as HAProxy saw them."""


MIN_AMOUNT = {Unit.TOKENS: 200.0, Unit.BYTES: 40_000.0}
"""Tokens, or bytes of streamed answers at some 200 a token, below which a replica is not judged: a few short answers
would be judged by their batch mates."""

MIN_MEASURED = 3
"""Replicas that must have been measured: of two nobody can say which one is the odd one."""


class _Sums(NamedTuple):
    took_ms: float
    amount: float


class Pace:
    """Decoding speed by slot."""

    def __init__(self, *, window_s: float = 30.0) -> None:
        """window_s: time constant with which older answers stop to count."""
        self._window_s = window_s
        self._sums: dict[tuple[int, Unit], _Sums] = {}
        self._at_s = math.inf
        """When time last passed; the first step only sets it."""

    def observe(self, slot: int, took_ms: float, amount: float, unit: Unit) -> None:
        """One answer took `took_ms` from its first token to its last, for so many tokens or bytes."""
        if took_ms < 0 or amount <= 0:
            return
        before = self._sums.get((slot, unit))
        if before is None:
            self._sums[slot, unit] = _Sums(took_ms, amount)
        else:
            self._sums[slot, unit] = _Sums(before.took_ms + took_ms, before.amount + amount)

    def step(self, now_s: float) -> None:
        """Lets time pass; called a few times a second."""
        kept = math.exp(-max(0.0, now_s - self._at_s) / self._window_s)
        self._at_s = now_s
        for key, sums in list(self._sums.items()):
            if sums.amount * kept < 1.0:
                del self._sums[key]
            else:
                self._sums[key] = _Sums(sums.took_ms * kept, sums.amount * kept)

    def clear_slot(self, slot: int) -> None:
        """Forgets what was measured of a slot."""
        for unit in Unit:
            self._sums.pop((slot, unit), None)

    def ratios(self, slots: Iterable[int]) -> dict[int, float]:
        """Ratio of each slot's decode time to the median; absent where that is not known."""
        found: dict[int, float] = {}
        if not self._sums:
            return found
        members = list(slots)
        for unit in Unit:
            gaps = {
                slot: sums.took_ms / sums.amount
                for slot in members
                if (sums := self._sums.get((slot, unit))) is not None and sums.amount >= MIN_AMOUNT[unit]
            }
            for slot, ratio in over_median(gaps).items():
                found[slot] = max(found.get(slot, 0.0), ratio)
        return found


def over_median(values: Mapping[int, float]) -> dict[int, float]:
    """Each value over the median of all; empty where too few were measured to say who is the odd one."""
    if len(values) < MIN_MEASURED or (usual := median(values.values())) <= 0:
        return {}
    return {slot: value / usual for slot, value in values.items()}
