"""The replicas one request may use, with the signals policies weigh.

Everything here is plain data. `Candidates` holds columns, not objects: one numpy array per signal, indexed by *slot*
(a small integer the registry gives a replica for its whole life), plus the ascending array of slots this request may
use. A policy that scores works on whole columns; a simple one iterates row views.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, cast, overload

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


class KVArrays(NamedTuple):
    """The columns of `KVSignals`, by slot."""

    waiting: FloatColumn
    """Prefill backlog in tokens: uncached prompt tokens of requests that have no first token yet."""
    prefill_ms: FloatColumn
    """T(waiting): how long the replica needs for its prefill backlog."""
    base_ms: FloatColumn
    per_token_ms: FloatColumn
    per_square_ms: FloatColumn
    """Coefficients of `T(x) = base + per_token x + per_square x^2`, the replica's time to prefill x > 0 tokens."""
    recompute_ms_per_token: FloatColumn
    """T(8192) / 8192: cost of one evicted token that a large prefill computes again."""
    footprint: FloatColumn
    """KV that live conversations keep on the replica, in tokens; a prefix they share counts once."""
    capacity: FloatColumn
    """KV that fits on the replica, in tokens; inf where it is unknown."""
    fill: FloatColumn
    """footprint / capacity."""


class KVCells(NamedTuple):
    """The columns of `KVSignals` to read one number at a time from: so they answer twice as fast as arrays."""

    waiting: memoryview[float]
    prefill_ms: memoryview[float]
    base_ms: memoryview[float]
    per_token_ms: memoryview[float]
    per_square_ms: memoryview[float]
    recompute_ms_per_token: memoryview[float]
    footprint: memoryview[float]
    capacity: memoryview[float]
    fill: memoryview[float]


class KVSignals:
    """KV signals of replicas, as the columns of `KVArrays`. Live arrays: read them, never write or keep them."""

    __slots__ = ("active_usage", "cells", "certainty", "usage", *KVArrays._fields)

    def __init__(
        self, columns: KVArrays, *, usage: float = 0.0, active_usage: float = 0.0, certainty: float = 1.0
    ) -> None:
        self.waiting, self.prefill_ms = columns.waiting, columns.prefill_ms
        self.base_ms, self.per_token_ms, self.per_square_ms = (
            columns.base_ms,
            columns.per_token_ms,
            columns.per_square_ms,
        )
        self.recompute_ms_per_token = columns.recompute_ms_per_token
        self.footprint, self.capacity, self.fill = columns.footprint, columns.capacity, columns.fill
        self.cells = KVCells(*map(_cells, columns))
        self.usage = usage
        """Share of the fleet's KV that live conversations keep, over the replicas whose capacity is known."""
        self.active_usage = active_usage
        """Share of the fleet's KV that conversations with an active request keep, taken as equally long as others."""
        self.certainty = certainty
        """Share of the footprint that is known to be asked for again, 0 to 1.

        Below 1 while too few pauses were observed to tell whether silent conversations go on: only those with an active
        request count then."""

    def time_ms(self, slot: int, tokens: float) -> float:
        """T(tokens) of the replica in a slot; 0 for no tokens."""
        if tokens <= 0:
            return 0.0
        cells = self.cells
        return cells.base_ms[slot] + tokens * (cells.per_token_ms[slot] + tokens * cells.per_square_ms[slot])


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
    """Leading tokens of one prompt that replicas have cached; 0 for replicas that are not named.

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
        """Return the uncached tokens of a prompt, at least 1, by slot, as an array that the caller may change."""
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


class RemotePrefill(NamedTuple):
    """The best prefill replica for one prompt, whichever decode replica is chosen, with its predicted times."""

    slot: int
    queue_ms: float
    """Time for the prefill replica's backlog."""
    miss_ms: float
    """Time for what the prefill replica does not hold of the prompt, and for handing the KV over."""
    uncached: int
    """Tokens of the prompt that the prefill replica has to compute."""
    min_uncached: int
    """Tokens that a decode replica must lack before a remote prefill is worth its overhead."""
    patience: float
    """Largest ratio of the remote prefill's time to that of the decode replica."""

    @overload
    def worthwhile(self, uncached: float, local_ms: float) -> bool: ...
    @overload
    def worthwhile(self, uncached: FloatColumn | float, local_ms: FloatColumn) -> NDArray[np.bool_]: ...
    def worthwhile(self, uncached: FloatColumn | float, local_ms: FloatColumn | float) -> NDArray[np.bool_] | bool:
        """Whether to prefill remotely for a decode replica, or for each of a column of them.

        uncached: tokens of the prompt that the decode replica does not hold.
        local_ms: time until the decode replica would have computed them, its own backlog included.
        """
        return (uncached >= self.min_uncached) & (self.queue_ms + self.miss_ms <= self.patience * local_ms)


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
    remote_prefill: RemotePrefill | None = None
    """The prefill replica that may compute the prompt; None unless all candidates are decode replicas."""

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
