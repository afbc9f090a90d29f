"""Builders for what a policy is given: `make_candidates(a=3, b=0)` reads as the fleet it stands for."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

import numpy as np

from policies.base import Context
from policies.types import GONE_SLOT, NO_SLOT, Candidates, Ranked, RequestFeatures

UNUSED = 7_777_777
"""What a column holds where no candidate is: a policy that forgets to index by slot reads this."""


def make_features(session: str = "", **given: object) -> RequestFeatures:
    """A request, of `session` if given; other fields by name."""
    return RequestFeatures(**{"request_id": "request-1", "session": session, **given})  # type: ignore[arg-type]


def make_context(seed: int = 0, *, limit: int = 2, now_s: float = 1000.0) -> Context:
    """A context with dice of its own."""
    return Context(now_s, random.Random(seed), limit)


def make_candidates(
    loads: Mapping[str, int] | Sequence[int] | None = None,
    /,
    *,
    tokens: Mapping[str, int] | None = None,
    pin: str | None = None,
    slots: Sequence[int] | None = None,
    **named: int,
) -> Candidates:
    """Candidates by replica id and requests in flight: `make_candidates(a=3, b=0)`, or a mapping, or a sequence of
    loads for replicas `r0`, `r1`, ...

    Slots are 0, 1, ... unless given (ascending, gaps welcome). `tokens` in flight are 100 a request unless given. `pin`
    names the session's home; a name that is no candidate stands for a replica that left.
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
    home = NO_SLOT
    if pin is not None:
        home = ids.index(pin) if pin in ids else GONE_SLOT
    return Candidates(
        membership=hash((tuple(own.tolist()), tuple(loads))),
        slots=own,
        ids=ids,
        in_flight=in_flight,
        in_flight_tokens=in_flight_tokens,
        pin=home,
    )


def names(ranked: Sequence[Ranked], candidates: Candidates) -> list[str]:
    """A ranking as replica ids."""
    return [candidates.ids[place.slot] for place in ranked]
