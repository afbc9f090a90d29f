"""Builders for what a policy is given: `make_candidates(a=3, b=0)` reads as the fleet it stands for."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from pointsman.policies.candidates import GONE_SLOT, NO_SLOT, AdapterSignals, Candidates, KVArrays, KVSignals, Residency
from pointsman.policies.decision import Ranked
from pointsman.policies.policy import Context
from pointsman.policies.request import RequestFeatures

UNUSED = 7_777_777
"""What a column holds where no candidate is: a policy that forgets to index by slot reads this."""


def make_features(session: str = "", **given: object) -> RequestFeatures:
    """A request, of `session` if given; other fields by name."""
    return RequestFeatures(**{"request_id": "request-1", "session": session, **given})  # type: ignore[arg-type]


def make_context(seed: int = 0, *, limit: int = 2, now_s: float = 1000.0, waiting: bool = False) -> Context:
    """A context with dice of its own."""
    return Context(now_s, random.Random(seed), limit, waiting)


def make_kv(
    slots: Sequence[int],
    *,
    waiting: Sequence[float] | None = None,
    footprint: Sequence[float] | None = None,
    capacity: Sequence[float] | None = None,
    per_token_ms: Sequence[float] | None = None,
    base_ms: float = 20.0,
    active_usage: float = 0.0,
) -> KVSignals:
    """Columns for these slots: nothing waits, nothing is kept, 100,000 tokens fit, T(x) = 20 ms + 0.02 ms x.
    `active_usage` is the share of the fleet's KV that conversations with an active request keep."""
    own = np.array(slots, dtype=np.intp)

    def column(values: Sequence[float] | None, default: float) -> np.ndarray:
        full = np.full(int(own[-1]) + 1, float(UNUSED))
        full[own] = default if values is None else values
        return full

    waits, kept = column(waiting, 0.0), column(footprint, 0.0)
    room, each = column(capacity, 100_000.0), column(per_token_ms, 0.02)
    known = np.isfinite(room[own])
    return KVSignals(
        KVArrays(
            waiting=waits,
            prefill_ms=np.where(waits > 0, base_ms + each * waits, 0.0),
            base_ms=column(None, base_ms),
            per_token_ms=each,
            per_square_ms=column(None, 0.0),
            recompute_ms_per_token=column(None, base_ms / 8192) + each,
            footprint=kept,
            capacity=room,
            fill=kept / room,
        ),
        usage=float(kept[own][known].sum() / room[own][known].sum()) if known.any() else 0.0,
        active_usage=active_usage,
    )


def make_candidates(
    loads: Mapping[str, int] | Sequence[int] | None = None,
    /,
    *,
    tokens: Mapping[str, int] | None = None,
    pin: str | None = None,
    slots: Sequence[int] | None = None,
    prompt: int = 1000,
    resident: Mapping[str, int] | None = None,
    keeper: str | None = None,
    home_tokens: int = 0,
    kv: Mapping[str, Any] | None = None,
    adapter: Iterable[str] | None = None,
    adapter_room: Mapping[str, int] | None = None,
    **named: int,
) -> Candidates:
    """Candidates by replica id and requests in flight: `make_candidates(a=3, b=0)`, or a mapping, or a sequence of
    loads for replicas `r0`, `r1`, ...

    Slots are 0, 1, ... unless given (ascending, gaps welcome). `tokens` in flight are 100 a request unless given. `pin`
    names the session's home; a name that is no candidate stands for a replica that left. `prompt` is its length,
    `resident` what of it who holds, `keeper` who keeps the conversation's `home_tokens`; `kv` goes to `make_kv`.
    `adapter` names who has the request's LoRA adapter loaded, if it names one; the others have room for one more unless
    `adapter_room` says otherwise.
    """
    if loads is None:
        loads = named
    elif not isinstance(loads, Mapping):
        loads = {f"r{i}": load for i, load in enumerate(loads)}
    own = np.array(range(len(loads)) if slots is None else slots, dtype=np.intp)
    size = int(own[-1]) + 1
    ids = [""] * size
    in_flight = np.full(size, UNUSED, dtype=np.int64)
    in_flight_tokens = np.full(size, UNUSED, dtype=np.int64)
    for slot, (replica, load) in zip(own.tolist(), loads.items(), strict=True):
        ids[slot] = replica
        in_flight[slot] = load
        in_flight_tokens[slot] = 100 * load if tokens is None else tokens[replica]
    pinned = NO_SLOT
    if pin is not None:
        pinned = ids.index(pin) if pin in ids else GONE_SLOT
    held: dict[int, list[int]] = {}
    for replica, depth in (resident or {}).items():
        held.setdefault(depth, []).append(ids.index(replica))
    signals = None
    if adapter is not None:
        free = np.full(size, UNUSED, dtype=np.int64)
        free[own] = [(adapter_room or {}).get(ids[slot], 1) for slot in own.tolist()]
        signals = AdapterSignals([ids.index(name) if name in ids else UNUSED for name in adapter], free)
    return Candidates(
        adapter=signals,
        membership=hash((tuple(own.tolist()), tuple(loads))),
        slots=own,
        ids=ids,
        in_flight=in_flight,
        in_flight_tokens=in_flight_tokens,
        pin=pinned,
        kv=make_kv(own.tolist(), **(kv or {})),
        resident=Residency(list(held.items())),
        prompt_tokens=prompt,
        home=NO_SLOT if keeper is None else ids.index(keeper),
        home_tokens=home_tokens,
    )


def names(ranked: Sequence[Ranked], candidates: Candidates) -> list[str]:
    """A ranking as replica ids."""
    return [candidates.ids[place.slot] for place in ranked]
