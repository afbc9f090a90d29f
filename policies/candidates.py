"""The replicas one request may use, with the signals policies weigh.

Everything here is plain data. `Candidates` holds columns, not objects: one numpy array per signal, indexed by *slot*
(a small integer the registry gives a replica for its whole life), plus the ascending array of slots this request may
use. A policy that scores works on whole columns; a simple one iterates row views.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, cast

import msgspec
import numpy as np
from numpy.typing import NDArray

NO_SLOT = -1
"""A slot number that names no replica: the session has no pin."""

GONE_SLOT = -2
"""The session has a pin, to a replica that is no longer registered."""

Slots = NDArray[np.intp]

Column = NDArray[np.int64]

FloatColumn = NDArray[np.floating[Any]]


class Candidate(NamedTuple):
    """Row view of one replica this request may use, with its signals."""

    slot: int
    replica: str
    in_flight: int
    """Requests."""
    in_flight_tokens: int
    """Estimated tokens (prompt and expected output) of the requests in flight."""


class KVCells(NamedTuple):
    """The columns of `KVSignals` to read one number at a time from: so they answer twice as fast as arrays."""

    waiting: memoryview[float]
    prefill_ms: memoryview[float]
    base_ms: memoryview[float]
    per_token_ms: memoryview[float]
    per_square_ms: memoryview[float]
    again_ms: memoryview[float]
    footprint: memoryview[float]
    capacity: memoryview[float]
    fill: memoryview[float]


class KVSignals:
    """What replicas have to do and to keep, as columns by slot. Live arrays: read, never write, never keep."""

    __slots__ = (
        "again_ms", "base_ms", "capacity", "cells", "certainty", "fill", "footprint", "per_square_ms", "per_token_ms",
        "prefill_ms", "under_way", "usage", "waiting",
    )  # fmt: skip

    def __init__(
        self,
        *,
        waiting: FloatColumn,
        prefill_ms: FloatColumn,
        base_ms: FloatColumn,
        per_token_ms: FloatColumn,
        per_square_ms: FloatColumn,
        again_ms: FloatColumn,
        footprint: FloatColumn,
        capacity: FloatColumn,
        fill: FloatColumn,
        usage: float = 0.0,
        under_way: float = 0.0,
        certainty: float = 1.0,
    ) -> None:
        self.waiting = waiting
        """Prefill backlog: uncached prompt tokens of requests without a first token."""
        self.prefill_ms = prefill_ms
        """T(waiting): how long that backlog takes."""
        self.base_ms = base_ms
        self.per_token_ms = per_token_ms
        self.per_square_ms = per_square_ms
        """Coefficients of `T(x) = base + per_token x + per_square x^2`, the time to prefill x > 0 tokens there."""
        self.again_ms = again_ms
        """What a token costs that is computed again with many others: T(8192) / 8192."""
        self.footprint = footprint
        """Tokens of KV that live conversations keep there, what they share counted once."""
        self.capacity = capacity
        """Tokens of KV it has room for; inf where unknown."""
        self.fill = fill
        """footprint / capacity."""
        self.usage = usage
        """Share of the whole fleet's KV that live conversations keep, of replicas whose capacity is known."""
        self.under_way = under_way
        """The part of `usage` whose conversations have a request under way, if they are as long as the others."""
        self.certainty = certainty
        """Share of the footprint that is known to be asked for again. Less than 1 while too few conversations were
        observed to tell whether silent ones go on: only those with a request under way count then."""
        self.cells = KVCells(
            waiting=_cells(waiting),
            prefill_ms=_cells(prefill_ms),
            base_ms=_cells(base_ms),
            per_token_ms=_cells(per_token_ms),
            per_square_ms=_cells(per_square_ms),
            again_ms=_cells(again_ms),
            footprint=_cells(footprint),
            capacity=_cells(capacity),
            fill=_cells(fill),
        )


def _cells(column: FloatColumn) -> memoryview[float]:
    # memoryview is generic for type checkers only.
    return cast("memoryview[float]", memoryview(cast("bytearray", column)))


FEW_SLOTS = 8
"""Slots up to which writing one after the other is quicker than all at once."""


def names(slots: Sequence[int] | Slots, slot: int) -> bool:
    """Whether `slots`, ascending where it is an array, has that one."""
    if isinstance(slots, np.ndarray):
        at = bisect_left(slots, slot)
        return at < len(slots) and slots.item(at) == slot
    return slot in slots


class Residency:
    """How many leading tokens of one prompt replicas hold; 0 for all that are not named.

    `levels` are (tokens, slots) with each slot in one of them at most; arrays ascend. Sparse where few replicas hold
    anything, and a handful of array writes where all hold the same system prompt.
    """

    __slots__ = ("levels",)

    def __init__(self, levels: Sequence[tuple[int, Sequence[int] | Slots]] = ()) -> None:
        self.levels = levels

    def __bool__(self) -> bool:
        return bool(self.levels)

    def __repr__(self) -> str:
        return f"Residency({', '.join(f'{tokens}: {len(slots)} slots' for tokens, slots in self.levels)})"

    def tokens(self, slot: int) -> int:
        """Resident tokens on one replica."""
        for tokens, slots in self.levels:
            if names(slots, slot):
                return tokens
        return 0

    def column(self, width: int) -> FloatColumn:
        """Resident tokens by slot, for `width` slots: the caller's to scribble on."""
        column = np.zeros(width)
        for tokens, slots in self.levels:
            if len(slots) == 1:
                column[slots[0]] = tokens
            else:
                column[slots] = tokens
        return column

    def rest(self, prompt: float, width: int) -> FloatColumn:
        """What of `prompt` tokens is not resident, at least 1, by slot; the caller's to scribble on."""
        column = np.empty(width)
        column.fill(prompt)
        for tokens, slots in self.levels:
            left = max(1.0, prompt - tokens)
            if isinstance(slots, list) and len(slots) <= FEW_SLOTS:
                for slot in slots:
                    column[slot] = left
            else:
                column[slots] = left
        return column


NOTHING_RESIDENT = Residency()


class AdapterSignals(NamedTuple):
    """Where one LoRA adapter is loaded, and where there is room for it."""

    holders: Sequence[int]
    """Slots that have it loaded, or are loading it; in no order."""
    room: Column
    """Adapters each could load without dropping one, by slot. Live: read, never write, never keep."""


class Elsewhere(NamedTuple):
    """The prefill replica that would compute this prompt for whichever decode replica is chosen, and when it would."""

    slot: int
    queue_ms: float
    """Its prefill backlog."""
    miss_ms: float
    """What it does not hold of the prompt, and handing the KV over."""
    uncached: int
    """That in tokens."""
    min_uncached: int
    """Tokens a decode replica must lack for it to be worth the while."""
    patience: float
    """How many times longer than on the decode replica it may take."""

    def spares(self, uncached: float, local_ms: float) -> bool:
        """Whether it takes the prompt over from a decode replica that lacks so much and would take so long."""
        return uncached >= self.min_uncached and self.queue_ms + self.miss_ms <= self.patience * local_ms


class Candidates(msgspec.Struct, kw_only=True, gc=False, eq=False):
    """The replicas one request may use and their signals, as columns over slots. Never empty when a policy sees it.

    `slots` is ascending and not aligned with the columns, which cover the whole table: index them with it
    (`in_flight[slots]`, a copy that is the caller's to scribble on). A *position* is an index into `slots`.
    `membership` is equal for two values exactly when `slots` and the replica ids behind them are the same, so a policy
    may key a cache (a hash ring) on it. Columns are live arrays owned by the state: read, never write, never keep.

    From `kv` on fields are there for policies that need PREFIX or KV, and mean nothing to the others.
    """

    membership: int
    slots: Slots
    ids: Sequence[str]
    """Replica id by slot, for the whole table."""
    in_flight: Column
    in_flight_tokens: Column
    pin: int = NO_SLOT
    """Slot the session is pinned to, in `slots` or not; NO_SLOT without a pin, GONE_SLOT when its replica left."""
    counted_in_flight: int | None = None
    """`total_in_flight`, by whom it costs nothing."""
    adapter: AdapterSignals | None = None
    """For policies that need ADAPTER; None where the request names no adapter."""
    kv: KVSignals | None = None
    resident: Residency = NOTHING_RESIDENT
    prompt_tokens: int = 0
    """Length of the prompt in tokens, as predicted; at least 1 for policies that need PREFIX or KV."""
    home: int = NO_SLOT
    """Slot that keeps the conversation's KV, in `slots` or not; NO_SLOT for one that begins."""
    home_tokens: int = 0
    """The conversation's share of `kv.footprint[home]`."""
    elsewhere: Elsewhere | None = None
    """Where all candidates are decode replicas that one prefill replica would compute this prompt for."""

    @property
    def total_in_flight(self) -> int:
        """Requests in flight on all candidates."""
        if self.counted_in_flight is not None:
            return self.counted_in_flight
        return int(np.add.reduce(self.in_flight[self.slots]))

    def __len__(self) -> int:
        return len(self.slots)

    def __iter__(self) -> Iterator[Candidate]:
        for slot in self.slots.tolist():
            yield Candidate(slot, self.ids[slot], int(self.in_flight[slot]), int(self.in_flight_tokens[slot]))

    def __contains__(self, slot: int) -> bool:
        return self.position(slot) is not None

    def position(self, slot: int) -> int | None:
        """Where a slot stands in `slots`; None for one that is no candidate."""
        at = int(self.slots.searchsorted(slot))
        return at if at < len(self.slots) and self.slots.item(at) == slot else None

    def __repr__(self) -> str:
        return f"Candidates({', '.join(f'{c.replica}:{c.in_flight}' for c in self)})"
