"""Load as policies weigh it: in which unit, and who carries least."""

from __future__ import annotations

import random
from typing import Annotated, Any, Literal, overload

import numpy as np
from msgspec import Meta

from pointsman.policies.candidates import Candidates, Column, FloatColumn
from pointsman.policies.lib.dice import draw

LoadUnit = Literal["requests", "tokens"]

By = Annotated[
    LoadUnit,
    Meta(description="Unit of load: `requests` in flight, or their estimated `tokens` (prompt and output)."),
]

TAKEN = np.iinfo(np.int64).max
"""Load of a position that is out of the running."""


def table_of(candidates: Candidates, by: LoadUnit) -> Column:
    """The whole-table column of that unit, by slot."""
    return candidates.in_flight if by == "requests" else candidates.in_flight_tokens


@overload
def least(load: Column, places: int, rng: random.Random) -> list[tuple[int, int]]: ...
@overload
def least(load: FloatColumn, places: int, rng: random.Random) -> list[tuple[int, float]]: ...
def least(load: Column | FloatColumn, places: int, rng: random.Random) -> list[tuple[int, Any]]:
    """The `places` positions with the least load, each with it, least first; equals in an order the dice give.

    `load` is used up: what was taken reads `TAKEN`. `places` is at most the number of positions not taken.
    """
    found: list[tuple[int, Any]] = []
    at = load.argmin()
    while len(found) < places:
        lowest, load[at] = load.item(at), TAKEN
        following = load.argmin()
        if load.item(following) > lowest:
            found.append((int(at), lowest))
        else:
            load[at] = lowest
            equals = (load == lowest).nonzero()[0]
            found += [(equals.item(drawn), lowest) for drawn in draw(rng, len(equals), places - len(found))]
            load[equals] = TAKEN
            following = load.argmin()
        at = following
    return found
