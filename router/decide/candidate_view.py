"""Candidates of one decision as people read them, and how far the second best is behind the best.

Past decisions (`GET /v1/decisions`) and explained ones (`POST /v1/explain`) show candidates in the same words. What is
not known is absent, not zero.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType

from pointsman.policies.candidates import GONE_SLOT, NO_SLOT, Candidates

Text = str | UnsetType
Whole = int | UnsetType
Real = float | UnsetType

EVEN_MS = 0.5
"""Difference of two costs, in milliseconds, below which the dice decide: predictions are not more exact."""


class ConsideredCandidate(msgspec.Struct, frozen=True, kw_only=True):
    """One replica that could have been chosen, with its signals at the time of the decision."""

    replica: str
    in_flight: Annotated[int, Meta(description="Requests in flight.")]
    in_flight_tokens: int
    resident_tokens: Annotated[
        Whole, Meta(description="Leading tokens of the prompt that the replica was predicted to hold.")
    ] = UNSET
    score: Annotated[Real, Meta(description="Score of the policy; the least is best.")] = UNSET
    terms: Annotated[
        dict[str, float] | UnsetType, Meta(description="Terms of the score by name; milliseconds under kv_cost.")
    ] = UNSET
    is_home: Annotated[bool | UnsetType, Meta(description="True for the conversation's home or the session's pin.")] = (
        UNSET
    )


def home_of(candidates: Candidates) -> int:
    """Return the slot of the conversation's home, else of the session's pin; a negative number without one."""
    return candidates.home if candidates.home not in (NO_SLOT, GONE_SLOT) else candidates.pin


def finite(number: float) -> Real:
    """Return a number in thousandths; absent where it is infinite."""
    return round(number, 3) if math.isfinite(number) else UNSET


def shown_terms(terms: Mapping[str, list[float]], at: int) -> dict[str, float]:
    """Return the terms of the candidate at a position, without infinite ones."""
    return {name: round(column[at], 3) for name, column in terms.items() if math.isfinite(column[at])}


def would_change(first: str, rival: str, margin: float, unit: str) -> Text:
    """Return what would make the second best candidate the choice, as a sentence; absent where the scores do not tell.

    first: the best candidate.
    rival: the second best.
    margin: score of the second best less that of the best.
    unit: of the scores, `Policy.score_unit`.
    """
    leaves = f"It leaves {first} for {rival} when"
    if unit == "ms":
        if margin < EVEN_MS:
            return f"{rival} costs the same within 1 ms: equal costs are decided at random."
        return f"{leaves} the queue of {first} is {margin:,.0f} ms longer."
    if unit in ("requests", "tokens"):
        if margin <= 0:
            return f"{rival} has the same load: equal loads are decided at random."
        return f"{leaves} {first} has over {margin:,.0f} more {unit} in flight."
    return UNSET
