"""The columns of KV signals by slot, and the one writer of each.

`KVColumns` owns the arrays policies read as `KVSignals` and keeps derived ones (`prefill_ms`, `fill`) in step with what
they follow from, in place: a decision reads them as they are, whatever the fleet's size.
"""

from __future__ import annotations

import math

import numpy as np

from pointsman.policies.candidates import FloatColumn, KVCells, KVSignals
from pointsman.router.fleet.slots import INITIAL_SLOTS, grown

PRIOR_BASE_MS = 20.0
PRIOR_PER_TOKEN_MS = 0.02
"""T(x) before anything is known: 50,000 tokens a second behind one engine step. Right for one large dense model on one
large GPU; what replicas report takes over within a few requests."""


RECOMPUTE_TOKENS = 8192.0
"""Tokens in one large prefill step of an engine; evicted tokens are taken to be computed again in such steps."""

ENDLESS = 2**53
"""Tokens of a replica whose KV capacity is unknown: the largest whole number that a column of floats holds exactly."""


class KVColumns:
    """Prefill backlogs, prefill times, footprints and capacities by slot."""

    def __init__(self) -> None:
        self._allocate(INITIAL_SLOTS)
        self._known_capacity = 0.0
        self._known_footprint = 0.0

    def _allocate(self, size: int) -> None:
        def column(value: float = 0.0) -> FloatColumn:
            return np.full(size, value, dtype=np.float64)

        signals = self.signals = KVSignals(
            waiting=column(),
            prefill_ms=column(),
            base_ms=column(PRIOR_BASE_MS),
            per_token_ms=column(PRIOR_PER_TOKEN_MS),
            per_square_ms=column(),
            recompute_ms_per_token=column(PRIOR_BASE_MS / RECOMPUTE_TOKENS + PRIOR_PER_TOKEN_MS),
            footprint=column(),
            capacity=column(math.inf),
            fill=column(),
        )
        self.waiting_elsewhere: FloatColumn = column()
        """The part of `waiting` that other edges sent."""
        cells = signals.cells
        self._waiting, self._prefill_ms = cells.waiting, cells.prefill_ms
        self._base_ms, self._per_token_ms = cells.base_ms, cells.per_token_ms
        self._per_square_ms, self._recompute_ms_per_token = cells.per_square_ms, cells.recompute_ms_per_token
        self._footprint, self._capacity, self._fill = cells.footprint, cells.capacity, cells.fill

    def __repr__(self) -> str:
        busy = np.flatnonzero(self.signals.footprint).tolist()
        return f"KVColumns({', '.join(f'{slot}:{self.signals.footprint[slot]:.0f}' for slot in busy)})"

    def add_slot(self, slot: int) -> None:
        """Makes room for a slot and starts it as unknown."""
        old, elsewhere = self.signals, self.waiting_elsewhere
        size = len(old.waiting)
        if slot >= size:
            self._allocate(grown(size, slot))
            self.waiting_elsewhere[:size] = elsewhere
            for name in KVCells._fields:
                getattr(self.signals, name)[:size] = getattr(old, name)
        self.clear_slot(slot)

    def clear_slot(self, slot: int) -> None:
        """Back to unknown."""
        for column in (self._waiting, self._prefill_ms, self._footprint, self._fill):
            column[slot] = 0.0
        self.waiting_elsewhere[slot] = 0.0
        self._capacity[slot] = math.inf
        self.set_times(slot, PRIOR_BASE_MS, PRIOR_PER_TOKEN_MS, 0.0)
        self._sum_up()

    def waiting(self, slot: int) -> float:
        """Tokens in front of a slot."""
        return self._waiting[slot]

    def room(self, slot: int) -> int:
        """Tokens of KV a slot has room for, where that is known; else more than any prompt has."""
        capacity = self._capacity[slot]
        return int(capacity) if capacity < math.inf else ENDLESS

    def time_ms(self, slot: int, tokens: float) -> float:
        """T(tokens) on a slot; 0 for no tokens."""
        return self.signals.time_ms(slot, tokens)

    def add_waiting(self, slot: int, tokens: int) -> None:
        self._waiting[slot] = waiting = self._waiting[slot] + tokens
        self._prefill_ms[slot] = self.signals.time_ms(slot, waiting)

    def add_waiting_elsewhere(self, slot: int, tokens: int) -> None:
        """Another edge has so many more tokens in front of a slot, or fewer."""
        self.waiting_elsewhere[slot] += tokens
        self.add_waiting(slot, tokens)

    def set_times(self, slot: int, base_ms: float, per_token_ms: float, per_square_ms: float) -> None:
        self._base_ms[slot], self._per_token_ms[slot], self._per_square_ms[slot] = base_ms, per_token_ms, per_square_ms
        self._recompute_ms_per_token[slot] = self.time_ms(slot, RECOMPUTE_TOKENS) / RECOMPUTE_TOKENS
        self.add_waiting(slot, 0)

    def add_footprint(self, slot: int, tokens: int) -> None:
        capacity = self._capacity[slot]
        self._footprint[slot] = footprint = self._footprint[slot] + tokens
        self._fill[slot] = footprint / capacity
        if capacity < math.inf:
            self._known_footprint += tokens
            self.signals.usage = self._known_footprint / self._known_capacity

    def set_capacity(self, slot: int, tokens: float) -> None:
        """Tokens, more than 0; inf where it is unknown."""
        if self._capacity[slot] != tokens:
            fill = self._footprint[slot] / tokens
            self._capacity[slot] = tokens
            self._fill[slot] = fill
            self._sum_up()

    def _sum_up(self) -> None:
        signals = self.signals
        known = signals.capacity < math.inf
        self._known_capacity = float(signals.capacity[known].sum())
        self._known_footprint = float(signals.footprint[known].sum())
        signals.usage = self._known_footprint / self._known_capacity if self._known_capacity else 0.0
