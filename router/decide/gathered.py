"""Batch requests gather on few replicas, so that the others stay as quick as without a batch.

A request that comes to a replica where a batch runs waits for the step under way, and its steps are longer. Spread over
a fleet, a batch does that to nearly every request; gathered on an eighth of it, to those that the policy still sends
there.
"""

from __future__ import annotations

import numpy as np

from pointsman.policies.admission import DEFAULT_ADMISSION, Admission
from pointsman.policies.candidates import NO_SLOT, Candidates
from pointsman.policies.decision import Ranked, Reason, put_first
from pointsman.router.fleet.load import LoadTable

GATHER_FROM = 4
"""Candidates from which a batch gathers: of fewer, one with a batch is too large a part."""

ONE_OF = 8
"""One of so many candidates, and of those that are left over, may have batch requests."""

WAITS = -2
"""In place of a slot: no replica takes a batch request now."""


def gathering_slot(candidates: Candidates, load: LoadTable, admission: Admission | None) -> int:
    """The slot that a batch request goes to: of those that have batch requests and room, the one with the most.

    NO_SLOT where the policy decides: nothing gathers, another replica may have batch requests too, or the request's
    session is somewhere. WAITS where none takes one now.
    """
    most, slots = (admission or DEFAULT_ADMISSION).batch.gather, candidates.slots
    if most is None or len(slots) < GATHER_FROM or candidates.pin != NO_SLOT or candidates.home != NO_SLOT:
        return NO_SLOT
    batch = load.batch[slots]
    # While it computes a prompt of a batch, the next prompt would make that longer for whoever comes.
    room = (batch > 0) & (load.in_flight[slots] < most) & (load.batch_prompts[slots] == 0)
    if room.any():
        return int(slots[np.argmax(batch * room)])
    return NO_SLOT if ONE_OF * np.count_nonzero(batch) < len(slots) else WAITS


def gathered(
    ranked: list[Ranked], candidates: Candidates, load: LoadTable, admission: Admission | None
) -> list[Ranked]:
    """The ranking of a batch request with the replica first where the batch gathers.

    As it is for a request of whose prompt the replica that is ranked first has more.
    """
    slot, first = gathering_slot(candidates, load, admission), ranked[0]
    if slot < 0 or slot == first.slot or candidates.resident.tokens(first.slot) > candidates.resident.tokens(slot):
        return ranked
    return put_first(ranked, slot, Reason.BATCH_GATHERED)
