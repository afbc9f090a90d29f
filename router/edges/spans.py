"""Which batches of one edge's stream are known, whatever is missing before them or between."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import pairwise

MAX_SPANS = 32
"""Of one stream. A gap ends with the snapshot that it leads to, so that more are an edge that meets nobody for long."""


class Spans:
    """Spans of numbers, told as their bounds: after the first up to the second, after the third up to the fourth.

    Beyond `MAX_SPANS` the earliest are left out, and nothing before the others is claimed or missed any more.
    """

    __slots__ = ("_bounds", "_from")

    def __init__(self) -> None:
        self._bounds: list[int] = []
        self._from = 0
        """What is not after it is left out."""

    def __repr__(self) -> str:
        return f"Spans({', '.join(f'{after + 1} to {to}' for after, to in _pairs(self._bounds))})"

    @property
    def bounds(self) -> list[int]:
        return self._bounds.copy()

    def add(self, after: int, to: int) -> None:
        """All after the one and up to the other."""
        bounds = self._bounds
        after = max(after, self._from)
        if after >= to:
            return
        if bounds and bounds[-1] == after:
            bounds[-1] = to
            return
        first, last = bisect_left(bounds, after), bisect_right(bounds, to)
        bounds[first:last] = [after] * (first % 2 == 0) + [to] * (last % 2 == 0)
        if (beyond := len(bounds) - 2 * MAX_SPANS) > 0:
            self._from = bounds[beyond - 1]
            del bounds[:beyond]

    def add_all(self, bounds: Sequence[int]) -> None:
        for after, to in _pairs(bounds):
            self.add(after, to)

    def cover(self, bounds: Sequence[int]) -> bool:
        """Whether all of these are known, as far as they are not left out."""
        return bounds == self._bounds or all(
            self.known_to(max(after, self._from)) >= to for after, to in _pairs(bounds) if to > self._from
        )

    def known_to(self, seq: int) -> int:
        """The last one after `seq` before which none after it is missing; `seq` where the next is missing."""
        at = bisect_right(self._bounds, seq)
        return self._bounds[at] if at % 2 else seq


def _pairs(bounds: Sequence[int]) -> list[tuple[int, int]]:
    return list(pairwise(bounds))[::2]
