"""The columns of KV signals by slot, and the one writer of each.

`KVColumns` owns the arrays policies read as `KVSignals` and keeps derived ones (`prefill_ms`, `fill`) in step with what
they follow from, in place: a decision reads them as they are, whatever the fleet's size.
"""

from __future__ import annotations

import math

import numpy as np

from pointsman.policies.candidates import FloatColumn, KVArrays, KVSignals
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
        self.table = np.zeros((len(KVArrays._fields), size))
        """All columns of `KVArrays` as one array, a row each, to copy at once."""
        columns = KVArrays(*self.table)
        columns.base_ms.fill(PRIOR_BASE_MS)
        columns.per_token_ms.fill(PRIOR_PER_TOKEN_MS)
        columns.recompute_ms_per_token.fill(PRIOR_BASE_MS / RECOMPUTE_TOKENS + PRIOR_PER_TOKEN_MS)
        columns.capacity.fill(math.inf)
        self.signals = KVSignals(columns)
        self.waiting_elsewhere: FloatColumn = np.zeros(size)
        """The part of `waiting` that other edges sent."""
        self.cells = self.signals.cells
        """Cells of the columns, to read and write one number at a time."""

    def __repr__(self) -> str:
        busy = np.flatnonzero(self.signals.footprint).tolist()
        return f"KVColumns({', '.join(f'{slot}:{self.signals.footprint[slot]:.0f}' for slot in busy)})"

    def add_slot(self, slot: int) -> None:
        """Make room for a slot of which nothing is known."""
        table, elsewhere = self.table, self.waiting_elsewhere
        size = len(elsewhere)
        if slot >= size:
            self._allocate(grown(size, slot))
            self.waiting_elsewhere[:size] = elsewhere
            self.table[:, :size] = table
        self.clear_slot(slot)

    def clear_slot(self, slot: int) -> None:
        """Forget all that is known of a slot."""
        cells = self.cells
        for column in (cells.waiting, cells.prefill_ms, cells.footprint, cells.fill):
            column[slot] = 0.0
        self.waiting_elsewhere[slot] = 0.0
        cells.capacity[slot] = math.inf
        self.set_times(slot, PRIOR_BASE_MS, PRIOR_PER_TOKEN_MS, 0.0)
        self._sum_up()

    def room(self, slot: int) -> int:
        """Tokens of KV that a slot has room for, where that is known; else more than any prompt has."""
        capacity = self.cells.capacity[slot]
        return int(capacity) if capacity < math.inf else ENDLESS

    def add_waiting(self, slot: int, tokens: int) -> None:
        """Change the prefill backlog of a slot, up or down."""
        cells = self.cells
        cells.waiting[slot] = waiting = cells.waiting[slot] + tokens
        cells.prefill_ms[slot] = self.signals.time_ms(slot, waiting)

    def add_waiting_elsewhere(self, slot: int, tokens: int) -> None:
        """Change the part of the prefill backlog of a slot that other edges sent, up or down."""
        self.waiting_elsewhere[slot] += tokens
        self.add_waiting(slot, tokens)

    def set_times(self, slot: int, base_ms: float, per_token_ms: float, per_square_ms: float) -> None:
        """Set the coefficients of T(x) on a slot."""
        cells = self.cells
        cells.base_ms[slot], cells.per_token_ms[slot], cells.per_square_ms[slot] = base_ms, per_token_ms, per_square_ms
        cells.recompute_ms_per_token[slot] = self.signals.time_ms(slot, RECOMPUTE_TOKENS) / RECOMPUTE_TOKENS
        self.add_waiting(slot, 0)

    def add_footprint(self, slot: int, tokens: int) -> None:
        """Change the footprint of a slot, up or down."""
        cells = self.cells
        capacity = cells.capacity[slot]
        cells.footprint[slot] = footprint = cells.footprint[slot] + tokens
        cells.fill[slot] = footprint / capacity
        if capacity < math.inf:
            self._known_footprint += tokens
            self.signals.usage = self._known_footprint / self._known_capacity

    def set_capacity(self, slot: int, tokens: float) -> None:
        """Set the KV capacity of a slot: tokens, more than 0; inf where it is unknown."""
        cells = self.cells
        if cells.capacity[slot] != tokens:
            cells.fill[slot] = cells.footprint[slot] / tokens
            cells.capacity[slot] = tokens
            self._sum_up()

    def _sum_up(self) -> None:
        signals = self.signals
        known = signals.capacity < math.inf
        self._known_capacity = float(signals.capacity[known].sum())
        self._known_footprint = float(signals.footprint[known].sum())
        signals.usage = self._known_footprint / self._known_capacity if self._known_capacity else 0.0
