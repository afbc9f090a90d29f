"""The values a decision is made of: what was asked, who may serve it, what was chosen, and why.

Everything here is plain data. `Candidates` holds columns, not objects: one numpy array per signal, indexed by *slot*
(a small integer the registry gives a replica for its whole life), plus the ascending array of slots this request may
use. A policy that scores works on whole columns; a simple one iterates row views.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from enum import IntEnum, StrEnum
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


class Reason(StrEnum):
    """Why a replica was chosen, or none was.

    The same word is metric label, SPOE variable, header, log field and explain output.
    """

    # A reason is a key on every request; Enum's own hash is a Python call.
    __hash__ = str.__hash__

    ROUND_ROBIN = "round-robin"
    RANDOM = "random"
    LEAST_LOAD = "least-load"
    POWER_OF_TWO = "power-of-two"
    HASH = "hash"
    HASH_SPILL = "hash-spill"
    """The ring's first choice was over its load bound; the next on the ring within it serves."""
    SESSION_PIN = "session-pin"
    SESSION_MOVED_OVERLOAD = "session-moved-overload"
    SESSION_MOVED_GONE = "session-moved-gone"
    PREFIX_MATCH = "prefix-match"
    """It holds the longest part of the prompt among those that have room."""
    KV_HOME = "kv-home"
    """The conversation's home costs least."""
    KV_PREFIX = "kv-prefix"
    """It holds a part of the prompt and costs least."""
    KV_COLD = "kv-cold"
    """It holds nothing of the prompt and still costs least."""
    KV_MOVED = "kv-moved"
    """The conversation's home costs more than this one."""
    LORA_LOADED = "lora-loaded"
    """It has the adapter loaded, or is loading it."""
    LORA_ROOM = "lora-room"
    """It has to load the adapter, and drops none for it."""
    LORA_SWAP = "lora-swap"
    """It has to drop an adapter for this one."""
    WEIGHTED = "weighted"
    ADMISSION = "admission"
    """Refused, at once or after its wait: the fleet's KV is full of live conversations, and this would be one more."""
    NO_CANDIDATES = "no-candidates"
    """No replica of that model is healthy and not draining. Refused where replicas of other models are; else HAProxy
    chooses, and the replica's own answer stands."""
    UNKNOWN_MODEL = "unknown-model"
    """Refused: nobody serves a model or adapter of that name."""
    NO_MODEL = "no-model"
    """Refused: several models are served, and nothing tells which one the request wants: its body does not name it, or
    not in the part that can be looked at."""
    DEADLINE = "deadline"
    """The lookup waited longer than HAProxy would: answered without an opinion."""
    FAIL_OPEN = "fail-open"
    """Set by HAProxy alone: the router gave no answer in time."""
    CUSTOM = "custom"
    """For policies from outside this project, which cannot add a word; the policy's name beside it says the rest."""


class Naming(IntEnum):
    """How the model of a request is known."""

    NAMED = 0
    """What `model` says is what the request wants; empty: none in particular."""
    ABSENT = 1
    """A body that was seen whole names none, on a path whose requests have one."""
    UNSEEN = 2
    """It was not found in the part of the body that was seen."""


class RequestFeatures(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """What one lookup says about its request. Absent values are empty strings, zero or empty tuples."""

    request_id: str
    """The decision id: HAProxy's unique-id, on the wire as `x-request-id`."""
    path: str = ""
    model: str = ""
    naming: Naming = Naming.NAMED
    generates: bool = True
    """Whether it makes a model generate. What does not (embeddings, scores, transcriptions) is placed by load alone."""
    session: str = ""
    """Session key; empty when the request carries none."""
    tenant: str = ""
    body_bytes: int = 0
    """Announced body length, at most 2^40; of a chunked body what had arrived when HAProxy asked."""
    missing_bytes: int = 0
    """Of these, announced only: they had not arrived when HAProxy asked, and nothing says that they will."""
    max_tokens: int = 0
    """0 when not given or not looked for."""
    prefix_keys: tuple[int, ...] = ()
    """Chained keys of the prompt's prefix, shortest prefix first (unsigned 64 bit), scoped."""
    scope: str = ""
    """Whose keys they are, for the replica to scope its own alike (`router.prefix_keys.SCOPE_HEADER`)."""
    policy: str = ""
    """Policy asked for by the override header; empty unless that header is enabled and present."""


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


class Ranked(msgspec.Struct, frozen=True, gc=False):
    """One place in a ranking. Lower score is better; its unit is the policy's own."""

    slot: int
    reason: Reason
    score: float = 0.0


class Decision(msgspec.Struct, frozen=True, gc=False):
    """The answer to one lookup: replica ids, best first, and why. No `first` means no opinion."""

    reason: Reason
    first: str = ""
    second: str = ""
    status: int = 0
    """0 routes; 400, 404, 429 or 503 is answered by HAProxy itself."""
    retry_after_s: int = 0
    model: str = ""
    """With 404: the name nobody serves."""
    prefill: str = ""
    """Id of the replica that computes the prompt for `first`; empty: `first` does so itself."""
    prefill_address: str = ""
    """Its host:port, which `first` is told."""
    pairing: str = ""
    """Why there is a `prefill` or none (`policies.pair.Pairing`); empty where `first` is no decode replica."""
    scope: str = ""
    """Of the request's prefix keys, for the replica."""
    once: bool = False
    """True when the retry budget is used up, so that HAProxy must not send the request again."""
    silence_ms: int = 0
    """Longest silence of the replica, before its answer and within it; 0: as HAProxy's configuration says."""
    hold_ms: int = 0
    """With 429: instead of being refused, the request may be held for so long until there is room."""


class Refusal(msgspec.Struct, frozen=True, gc=False):
    """A policy's answer to a request that should not be served at this moment."""

    reason: Reason
    status: int = 429
    retry_after_s: int = 1
    wait_s: float = 0.0
    """How long the request may be held at the edge, where the policy is asked again and again; 0: refused at once."""
