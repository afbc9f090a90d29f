"""The record of one decision: what was asked, what was considered, what was answered, and what came of it.

A record holds what a decision saw as it saw it: the columns of its candidates are copied, because the live ones change
with the next request. Nothing is computed when a record is made; `pointsman.router.decide.decision_view` computes the
terms of a past decision when somebody asks. What HAProxy and engines report of the request is kept as it was reported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from pointsman.contract.events import Finished, FirstToken
from pointsman.policies.candidates import (
    GONE_SLOT,
    NO_SLOT,
    AdapterSignals,
    Candidates,
    KVArrays,
    KVSignals,
    Residency,
    names,
)
from pointsman.policies.decision import Decision, Ranked
from pointsman.policies.policy import Needs
from pointsman.policies.request import RequestFeatures
from pointsman.router.requests.end_line import Line

MAX_WHOLE = 64
"""Slots up to which all columns are copied whole."""

MAX_PICKED = 16
"""Candidates of a larger fleet whose signals one record keeps: those that the ranking names, the conversation's home,
and holders of the longest prefixes."""

BASE_BYTES = 1800
"""Estimated memory of a record without its copies and prefix keys, in bytes."""

KEY_BYTES = 40
"""Estimated memory of one prefix key, in bytes."""

_COLUMNS = len(KVArrays._fields)


class KeptCandidates(msgspec.Struct, gc=False):
    """The candidates of one decision, with copies of the columns that change."""

    seen: Candidates
    """Candidates as the policy was given them; their columns are live and have changed since."""
    ids: Sequence[str]
    """Replica id by slot, as far as the candidates reach."""
    picked: Sequence[int] | None
    """Slots whose signals were copied, in that order; None where all were."""
    in_flight: bytes
    in_flight_tokens: bytes
    table: bytes
    """The columns of `KVArrays`, one after the other; empty for a policy that does not look at KV."""
    pressure: tuple[float, float, float]
    """`usage`, `active_usage` and `certainty` of `KVSignals`."""

    @property
    def slots(self) -> list[int]:
        """The candidates whose signals are known, ascending."""
        candidates: list[int] = self.seen.slots.tolist()
        if self.picked is None:
            return candidates
        return sorted(set(self.picked).intersection(candidates))

    def candidates(self) -> Candidates:
        """Return those candidates as the policy saw them; slot numbers are positions in `slots`."""
        seen, kept = self.seen, self.slots
        position = {slot: at for at, slot in enumerate(kept)}
        rows = kept if self.picked is None else [self.picked.index(slot) for slot in kept]
        candidates = Candidates(
            membership=-1,
            slots=np.arange(len(kept), dtype=np.intp),
            ids=[self.ids[slot] for slot in kept],
            in_flight=np.frombuffer(self.in_flight, dtype=np.int64)[rows],
            in_flight_tokens=np.frombuffer(self.in_flight_tokens, dtype=np.int64)[rows],
            pin=_moved(seen.pin, position),
            home=_moved(seen.home, position),
            home_tokens=seen.home_tokens,
            prompt_tokens=seen.prompt_tokens,
            resident=Residency(
                [
                    (tokens, [position[slot] for slot in kept if names(slots, slot)])
                    for tokens, slots in seen.resident.levels
                ]
            ),
            remote_prefill=seen.remote_prefill,
        )
        if self.table:
            usage, active_usage, certainty = self.pressure
            table = np.frombuffer(self.table).reshape(_COLUMNS, -1)[:, rows]
            arrays = KVArrays(*(np.ascontiguousarray(column) for column in table))
            candidates.kv = KVSignals(arrays, usage=usage, active_usage=active_usage, certainty=certainty)
        if seen.adapter is not None:
            held = [position[slot] for slot in seen.adapter.holders if slot in position]
            candidates.adapter = AdapterSignals(held, np.zeros(len(kept), dtype=np.int64))
        return candidates


def _moved(slot: int, position: Mapping[int, int]) -> int:
    """The position of a slot that was kept; GONE_SLOT for another that names a replica."""
    return position.get(slot, GONE_SLOT) if slot >= 0 else slot


def keep(
    candidates: Candidates, ranked: Sequence[Ranked], ids: Sequence[str], table: NDArray[np.float64]
) -> KeptCandidates:
    """Copy what a decision saw of its candidates; called before the decision changes any of it.

    ids: replica id by slot, which does not change any more.
    table: the columns of `KVArrays` as one array, by slot.
    """
    kv, in_flight, tokens = candidates.kv, candidates.in_flight, candidates.in_flight_tokens
    pressure = _NO_PRESSURE if kv is None else (kv.usage, kv.active_usage, kv.certainty)
    if len(in_flight) <= MAX_WHOLE:
        copied = b"" if kv is None else table.tobytes()
        return KeptCandidates(candidates, ids, None, in_flight.tobytes(), tokens.tobytes(), copied, pressure)
    picked = _picked(candidates, ranked)
    copied = b"" if kv is None else table.take(picked, 1).tobytes()
    return KeptCandidates(
        candidates, ids, picked, in_flight.take(picked).tobytes(), tokens.take(picked).tobytes(), copied, pressure
    )


_NO_PRESSURE = (0.0, 0.0, 1.0)


def _picked(candidates: Candidates, ranked: Sequence[Ranked]) -> list[int]:
    """Slots of a large fleet that say most about a decision, at most `MAX_PICKED`; some may be no candidates."""
    picked = [place.slot for place in ranked[:MAX_PICKED]]
    if candidates.home >= 0 and candidates.home not in picked:
        picked.append(candidates.home)
    if candidates.pin >= 0 and candidates.pin not in picked:
        picked.append(candidates.pin)
    for _, slots in candidates.resident.levels:
        few = slots[:MAX_PICKED]
        picked += [slot for slot in (few.tolist() if isinstance(few, np.ndarray) else few) if slot not in picked]
        if len(picked) >= MAX_PICKED:
            break
    return picked[:MAX_PICKED]


class ShadowChoice(msgspec.Struct, frozen=True, gc=False):
    """The choice of a policy that decides beside the live one. Predictions are None where nothing was predicted."""

    policy: str
    first: str
    """Replica, or what stands in place of one (`pointsman.router.decide.comparison`)."""
    reason: str
    score: float
    """Score of that replica; 0 without one."""
    ttft_ms: float | None
    """Predicted time to first token of this choice."""
    made_ttft_ms: float | None
    """Predicted time to first token of the decision that was made."""


class TraceContext(msgspec.Struct, frozen=True, gc=False):
    """Ids of the span of one traced request."""

    trace_id: int
    span_id: int
    parent_id: int = 0
    """Span of the client; 0 where the trace begins here."""

    @property
    def traceparent(self) -> str:
        """The header that makes a child of the span."""
        return f"00-{self.trace_id:032x}-{self.span_id:016x}-01"


class DecisionRecord(msgspec.Struct, gc=False):
    """One decision, and what came of it. What is not known is None."""

    at_s: float
    """When it was made, on the router's monotonic clock."""
    features: RequestFeatures
    decision: Decision
    policy: str
    revision: int
    """Revision of the live policy at that time; 0 where another policy decided."""
    kept: KeptCandidates | None = None
    """None where no policy was asked."""
    excluded: Mapping[str, str] | None = None
    """Replicas that could not be chosen, each with the cause; None for a request the router was not asked about."""
    score: float = 0.0
    """Score of the first choice."""
    predicted_cached: int = -1
    """Prompt tokens that the first choice was predicted to hold; -1 where nothing was predicted."""
    held_s: float = 0.0
    """Seconds that HAProxy held the request before."""
    line: Line | None = None
    """HAProxy's words about the end."""
    ended_s: float = 0.0
    first: FirstToken | None = None
    """The engine's words about the first token."""
    finished: Finished | None = None
    """The engine's words about the end."""
    prefill_first: FirstToken | None = None
    """The prefill replica's words about the prompt it computed."""
    trace: TraceContext | None = None
    """None for a request that is not traced."""
    reported_by: int = NO_SLOT
    """Slot of the engine whose words these are."""
    gathered: Needs = Needs.NOTHING
    """Signals that were there for the policy; more than it needed where another policy needed them too."""
    shadow: ShadowChoice | None = None
    """Choice of the shadow; None without one, or where it was not asked."""
    bytes: int = BASE_BYTES
    """Estimated memory, in bytes."""

    @property
    def ttft_ms(self) -> float | None:
        """Time to first token in milliseconds: as HAProxy measured it, else as the engine did; None where unknown."""
        if self.line is not None and self.line.ttft.isdecimal():
            return float(self.line.ttft)
        return self.first.ttft_ms if self.first is not None and self.first.ttft_ms else None

    def __repr__(self) -> str:
        ended = "in flight" if self.line is None else f"ended with {self.line.st}"
        return f"DecisionRecord({self.features.request_id}: {self.decision.reason} {self.decision.first}, {ended})"
