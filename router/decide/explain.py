"""A decision as people read it: the answer, every candidate with its signals and its place, and who was left out.

Pure rendering of what `Pipeline` considered; `POST /v1/explain` answers with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pointsman.contract.registration import Role
from pointsman.policies.candidates import Candidates
from pointsman.policies.decision import Decision, Ranked
from pointsman.policies.policy import Policy
from pointsman.policies.request import RequestFeatures
from pointsman.router.decide.considered import Considered
from pointsman.router.fleet.memberships import Membership
from pointsman.router.fleet.replica import Replica
from pointsman.router.fleet.replicas import ReplicaRegistry


def explain_none(policy: Policy, decision: Decision, replicas: ReplicaRegistry, eligible: Membership) -> dict[str, Any]:
    """A request that was answered before any policy was asked."""
    return {
        "policy": policy.describe(),
        "excluded": why_ineligible(replicas, eligible),
        "decision": decision,
        "prompt_tokens": 0,
        "candidates": [],
    }


def explain(
    features: RequestFeatures, considered: Considered, replicas: ReplicaRegistry, eligible: Membership
) -> dict[str, Any]:
    """A request that a policy was asked about; a refused one is ranked all the same, to show where it would go.

    considered: of a copy of the policy with copied dice, since ranking may move both.
    eligible: the replicas that may serve the model, before those were left out whose answers fail.
    """
    policy, candidates = considered.active.policy, considered.candidates
    ranked = considered.ranked or policy.rank(features, candidates, considered.context)
    return {
        "policy": policy.describe(),
        "excluded": why_excluded(replicas, eligible, candidates),
        "decision": considered.decision,
        "prompt_tokens": candidates.prompt_tokens,
        "candidates": _rows(features, policy, candidates, ranked),
    }


def _rows(
    features: RequestFeatures, policy: Policy, candidates: Candidates, ranked: Sequence[Ranked]
) -> list[dict[str, Any]]:
    terms = {name: column.tolist() for name, column in policy.terms(features, candidates).items()}
    places = {place.slot: (at, place) for at, place in enumerate(ranked, 1)}
    return [
        {
            "replica": row.replica,
            "in_flight": row.in_flight,
            "in_flight_tokens": row.in_flight_tokens,
            "pinned": row.slot == candidates.pin,
            "adapter_loaded": candidates.adapter is not None and row.slot in candidates.adapter.holders,
            "resident_tokens": candidates.resident.tokens(row.slot),
            "terms": {name: column[at] for name, column in terms.items()},
            **_place(places.get(row.slot)),
        }
        for at, row in enumerate(candidates)
    ]


def _place(place: tuple[int, Ranked] | None) -> dict[str, Any]:
    if place is None:
        return {"rank": None, "score": None, "reason": None}
    at, ranked = place
    return {"rank": at, "score": ranked.score, "reason": ranked.reason}


def why_excluded(replicas: ReplicaRegistry, eligible: Membership, candidates: Candidates) -> dict[str, str]:
    """Return the replicas that are no candidates, by id, each with the cause."""
    excluded = why_ineligible(replicas, eligible)
    if len(candidates.slots) < len(eligible.slots):
        demoted = set(eligible.slots.tolist()) - set(candidates.slots.tolist())
        excluded |= {replicas.ids[slot]: "demoted" for slot in demoted}
    return excluded


def why_ineligible(replicas: ReplicaRegistry, eligible: Membership) -> dict[str, str]:
    """Return the replicas that may not serve a model, by id, each with the cause."""
    return {replica.id: _why_ineligible(replica) for replica in replicas if replica.slot not in eligible.slots}


def _why_ineligible(replica: Replica) -> str:
    if not replica.eligible:
        return replica.state
    return "prefill" if replica.role is Role.PREFILL else "other-model"
