"""Prefill times by replica: `T(x) = a + b x + c x^2` in milliseconds, learned from first tokens.

`PrefillTimes` fits each replica by least squares of *relative* errors, recent observations weighing more (a hundred
remembered), outliers less (by Huber's rule, from twice the usual error on), and a prior that a few observations
outweigh. A coefficient that would be negative is held at 0 and the others are fitted without it: T never falls.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product

from pointsman.router.kv.columns import PRIOR_BASE_MS, PRIOR_PER_TOKEN_MS, KVColumns

SCALE = 8192.0
"""Tokens taken as one in the fit, so that its three coefficients are of one size."""

MEMORY = 0.99
"""Weight an observation keeps when another comes: about the last hundred count."""

OUTLIER = 0.7
"""Error, as the logarithm of observed over predicted, from which an observation weighs less: twice, half. Where errors
are usually large the bound is twice the usual, so that a replica unlike the prior, or one that changed, is believed."""

ERROR_WEIGHT = 0.1
"""Weight of one observation in the moving average of errors."""

FLOOR_MS = 5.0
"""Predictions below count as this when an error is made relative: timers are no finer."""

TYPICAL_TOKENS = 4096
"""Prompt at which replicas are compared with each other: long enough that it is not all fixed cost."""

MIN_PER_TOKEN_MS = 1e-5
"""100 million tokens a second: keeps T rising where an engine's prefill seems to cost nothing."""

_PRIOR = (PRIOR_BASE_MS, PRIOR_PER_TOKEN_MS * SCALE, 0.0)
_ACTIVE = sorted((active for active in product((True, False), repeat=3) if active[1]), key=sum, reverse=True)
"""Choices of coefficients that may differ from 0, most first; tokens always take time."""

Vector = list[float]


class PrefillTimes:
    """The fit of T for each slot, and its writer into the columns."""

    def __init__(self, columns: KVColumns) -> None:
        self._columns = columns
        self._sums: dict[int, tuple[list[Vector], Vector]] = {}
        self._errors: dict[int, float] = {}
        self.observations = 0

    def clear_slot(self, slot: int) -> None:
        """Go back to the prior for a slot that another engine takes."""
        self._sums.pop(slot, None)
        self._errors.pop(slot, None)

    def typical_ms(self, slot: int) -> float:
        """Time to prefill `TYPICAL_TOKENS` there, in milliseconds; 0 where nothing was observed."""
        return self._columns.signals.time_ms(slot, TYPICAL_TOKENS) if slot in self._sums else 0.0

    def observe(self, slot: int, tokens: int, took_ms: float) -> None:
        """Learn from a first token: `tokens` uncached tokens took so long, with nothing in front of them."""
        if tokens < 1 or took_ms < 0:
            return
        self.observations += 1
        predicted_ms = max(FLOOR_MS, self._columns.signals.time_ms(slot, tokens))
        error = abs(math.log(max(FLOOR_MS, took_ms) / predicted_ms))
        usual = self._errors.get(slot, error)
        self._errors[slot] = usual + ERROR_WEIGHT * (error - usual)
        bound = max(OUTLIER, 2 * usual)
        weight = (bound / error if error > bound else 1.0) / max(predicted_ms, took_ms) ** 2
        x = tokens / SCALE
        powers = (1.0, x, x * x)
        matrix, vector = self._sums.setdefault(slot, ([[0.0] * 3 for _ in range(3)], [0.0] * 3))
        for i in range(3):
            vector[i] = MEMORY * vector[i] + weight * powers[i] * took_ms
            for j in range(3):
                matrix[i][j] = MEMORY * matrix[i][j] + weight * powers[i] * powers[j]
        # The prior weighs as one observation does, at the scale of this replica.
        empty_ms = max(PRIOR_BASE_MS, self._columns.signals.time_ms(slot, 1))
        full_ms = max(PRIOR_PER_TOKEN_MS * SCALE, self._columns.signals.time_ms(slot, SCALE))
        base, linear, square = _fit(matrix, vector, (empty_ms**-2, full_ms**-2, full_ms**-2))
        self._columns.set_times(slot, base, max(MIN_PER_TOKEN_MS, linear / SCALE), square / SCALE**2)


def _fit(matrix: list[Vector], vector: Vector, precision: Sequence[float]) -> Vector:
    """The coefficients, none of them negative."""
    for active in _ACTIVE:
        at = [i for i in range(3) if active[i]]
        solved = _solve(
            [[matrix[i][j] + (precision[i] if i == j else 0.0) for j in at] for i in at],
            [vector[i] + precision[i] * _PRIOR[i] for i in at],
        )
        if min(solved) >= 0.0:
            found = [0.0] * 3
            for i, value in zip(at, solved, strict=True):
                found[i] = value
            return found
    return [0.0] * 3


def _solve(matrix: Sequence[Sequence[float]], vector: Sequence[float]) -> Vector:
    """Gauss elimination of a small positive definite system, which needs no pivots."""
    rows = [[*row, value] for row, value in zip(matrix, vector, strict=True)]
    n = len(rows)
    for i in range(n):
        for j in range(i + 1, n):
            factor = rows[j][i] / rows[i][i]
            rows[j] = [below - factor * above for below, above in zip(rows[j], rows[i], strict=True)]
    solved = [0.0] * n
    for i in reversed(range(n)):
        rest = sum(rows[i][j] * solved[j] for j in range(i + 1, n))
        solved[i] = (rows[i][n] - rest) / rows[i][i]
    return solved
