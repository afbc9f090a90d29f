"""Replicas that decode or prefill much slower than the others of their model.

`SlowReplicas` owns the comparison and its result. Decoding speed comes from `Pace`; how long a prefill takes is learned
elsewhere, under policies with KV signals, and asked for here. What a slow replica gets is `OutlierTable`'s to say.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from pointsman.router.fleet.replica import Replica
from pointsman.router.outliers.pace import Pace, over_median

PACE_INTERVAL_S = 2.0
"""Between two comparisons of speed, which take 1 ms at 1,000 replicas."""


class SlowReplicas:
    """The replicas that were slow when they were compared last."""

    def __init__(self, pace: Pace, prefill_ms: Callable[[int], float], slow_ratio: float) -> None:
        """prefill_ms: what a prompt of usual length takes to prefill on a slot, in milliseconds; 0 where unknown.
        slow_ratio: times the median from which a replica is slow."""
        self._pace = pace
        self._prefill_ms = prefill_ms
        self._slow_ratio = slow_ratio
        self._next_s = -math.inf
        self.ratios: dict[int, float] = {}
        """By slot, how many times slower than the median a slow replica is."""

    def is_due(self, now_s: float) -> bool:
        """Return whether it is time to compare again."""
        return now_s >= self._next_s

    def compare(self, groups: Iterable[list[Replica]], now_s: float) -> None:
        """Compares the replicas of each group, which serve one model, with their median."""
        self._next_s = now_s + PACE_INTERVAL_S
        self._pace.step(now_s)
        self.ratios.clear()
        for group in groups:
            slots = [replica.slot for replica in group]
            prefills = {slot: took_ms for slot in slots if (took_ms := self._prefill_ms(slot)) > 0}
            for ratios in (self._pace.ratios(slots), over_median(prefills)):
                for slot, ratio in ratios.items():
                    if ratio >= self._slow_ratio:
                        self.ratios[slot] = max(ratio, self.ratios.get(slot, 0.0))

    def clear_slot(self, slot: int) -> None:
        """Forgets the speed of a slot."""
        self._pace.clear_slot(slot)
        self.ratios.pop(slot, None)
