"""The columns of KV signals by slot, and the one writer of each.

`KVColumns` owns the arrays policies read as `KVSignals` and keeps derived ones (`prefill_ms`, `fill`) in step with what
they follow from, in place: a decision reads them as they are, whatever the fleet's size.
"""

from __future__ import annotations

import math

import numpy as np

from policies.types import FloatColumn, KVSignals
from router.state.slots import INITIAL_SLOTS, grown

PRIOR_BASE_MS = 20.0
PRIOR_PER_TOKEN_MS = 0.02
"""T(x) before anything is known: 50,000 tokens a second behind one engine step. Right for one large dense model on one
large GPU; what replicas report takes over within a few requests."""


class KVColumns:
    """Prefill backlogs, prefill times, footprints and capacities by slot."""

    def __init__(self) -> None:
        self._allocate(INITIAL_SLOTS)
        self._known_capacity = 0.0
        self._known_footprint = 0.0

    def _allocate(self, size: int) -> None:
        def column(value: float = 0.0) -> FloatColumn:
            return np.full(size, value, dtype=np.float64)

        self.signals = KVSignals(
            waiting=column(),
            prefill_ms=column(),
            base_ms=column(PRIOR_BASE_MS),
            per_token_ms=column(PRIOR_PER_TOKEN_MS),
            per_square_ms=column(),
            footprint=column(),
            capacity=column(math.inf),
            fill=column(),
        )

    def __repr__(self) -> str:
        busy = np.flatnonzero(self.signals.footprint).tolist()
        return f"KVColumns({', '.join(f'{slot}:{self.signals.footprint[slot]:.0f}' for slot in busy)})"

    def add_slot(self, slot: int) -> None:
        """Makes room for a slot and starts it as unknown."""
        old = self.signals
        size = len(old.waiting)
        if slot >= size:
            self._allocate(grown(size, slot))
            for name in KVSignals.__slots__:
                if name != "usage":
                    getattr(self.signals, name)[:size] = getattr(old, name)
        self.clear_slot(slot)

    def clear_slot(self, slot: int) -> None:
        """Back to unknown."""
        signals = self.signals
        for column in (signals.waiting, signals.prefill_ms, signals.per_square_ms, signals.footprint, signals.fill):
            column[slot] = 0.0
        signals.base_ms[slot], signals.per_token_ms[slot] = PRIOR_BASE_MS, PRIOR_PER_TOKEN_MS
        signals.capacity[slot] = math.inf
        self._sum_up()

    def time_ms(self, slot: int, tokens: float) -> float:
        """T(tokens) on a slot; 0 for none."""
        if tokens <= 0:
            return 0.0
        signals = self.signals
        per_token_ms = signals.per_token_ms.item(slot) + signals.per_square_ms.item(slot) * tokens
        return signals.base_ms.item(slot) + per_token_ms * tokens

    def add_waiting(self, slot: int, tokens: int) -> None:
        waiting = self.signals.waiting.item(slot) + tokens
        self.signals.waiting[slot] = waiting
        self.signals.prefill_ms[slot] = self.time_ms(slot, waiting)

    def set_times(self, slot: int, base_ms: float, per_token_ms: float, per_square_ms: float) -> None:
        signals = self.signals
        signals.base_ms[slot], signals.per_token_ms[slot] = base_ms, per_token_ms
        signals.per_square_ms[slot] = per_square_ms
        self.add_waiting(slot, 0)

    def add_footprint(self, slot: int, tokens: int) -> None:
        signals = self.signals
        footprint, capacity = signals.footprint.item(slot) + tokens, signals.capacity.item(slot)
        signals.footprint[slot] = footprint
        signals.fill[slot] = footprint / capacity
        if capacity < math.inf:
            self._known_footprint += tokens
            signals.usage = self._known_footprint / self._known_capacity

    def set_capacity(self, slot: int, tokens: float) -> None:
        """Tokens, more than 0; inf where it is unknown."""
        signals = self.signals
        if signals.capacity.item(slot) != tokens:
            signals.capacity[slot] = tokens
            signals.fill[slot] = signals.footprint.item(slot) / tokens
            self._sum_up()

    def _sum_up(self) -> None:
        signals = self.signals
        known = signals.capacity < math.inf
        self._known_capacity = float(signals.capacity[known].sum())
        self._known_footprint = float(signals.footprint[known].sum())
        signals.usage = self._known_footprint / self._known_capacity if self._known_capacity else 0.0
