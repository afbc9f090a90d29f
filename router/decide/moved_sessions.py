"""Sessions that an operator moved: their next request goes there, whatever the policy ranks first."""

from __future__ import annotations

from pointsman.policies.candidates import names
from pointsman.policies.decision import Ranked, Reason, put_first
from pointsman.router.fleet.memberships import Membership
from pointsman.router.fleet.replicas import ReplicaRegistry
from pointsman.router.fleet.sessions import SessionTable


def as_ordered(
    session: str,
    sessions: SessionTable,
    replicas: ReplicaRegistry,
    eligible: Membership,
    ranked: list[Ranked],
) -> list[Ranked]:
    """A ranking with the replica first that an operator moved the session to; as it is where nobody did, or where that
    replica may not serve the request."""
    state = sessions.state(session) if session in sessions.ordered else None
    slot = replicas.slot_of(state[0]) if state is not None else -1
    if state is None or not names(eligible.slots, slot):
        return ranked
    return put_first(ranked, slot, Reason.SESSION_MOVED_ORDER)
