"""A decision as people read it: the answer, every candidate with its signals and its place, and who was left out.

Pure rendering of what `Pipeline` considered; `POST /v1/explain` answers with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta

from pointsman.contract.registration import Role
from pointsman.policies.candidates import Candidates
from pointsman.policies.decision import Decision, Ranked
from pointsman.policies.policy import Policy, score_unit
from pointsman.policies.request import RequestFeatures
from pointsman.router.decide.candidate_view import (
    ConsideredCandidate,
    Real,
    Text,
    Whole,
    finite,
    home_of,
    shown_terms,
    would_change,
)
from pointsman.router.decide.considered import Considered
from pointsman.router.fleet.memberships import Membership
from pointsman.router.fleet.replica import Replica
from pointsman.router.fleet.replicas import ReplicaRegistry


class CandidateView(ConsideredCandidate, frozen=True, kw_only=True):
    """One eligible replica with its signals and its place in the ranking."""

    terms: Annotated[dict[str, float], Meta(description="Terms of the score, by the policy's names.")]
    pinned: Annotated[bool, Meta(description="Whether the session is pinned to the replica.")]
    adapter_loaded: Annotated[bool, Meta(description="Whether the replica has the LoRA adapter of the request loaded.")]
    rank: int | None = None
    reason: str | None = None


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """The decision that a request would get, and why."""

    decision: Decision
    would_change: Annotated[
        Text, Meta(description="Circumstances in which the second best candidate would be the choice, as a sentence.")
    ] = UNSET
    margin: Annotated[Real, Meta(description="Score of the second best candidate less that of the best.")] = UNSET
    margin_unit: Annotated[
        Text, Meta(description="Unit of `margin`: ms, requests or tokens; absent where scores only make an order.")
    ] = UNSET
    prompt_tokens: Annotated[
        int, Meta(description="Predicted tokens of the prompt; 0 for policies without prefix keys.")
    ] = 0
    resident_tokens: Annotated[Whole, Meta(description="Prompt tokens that the first choice is predicted to hold.")] = (
        UNSET
    )
    candidates: Annotated[list[CandidateView], Meta(description="Candidates with their signals, the best first.")]
    excluded: Annotated[
        dict[str, str], Meta(description="Replicas that may not serve the request, each with the cause.")
    ]
    policy: Annotated[dict[str, Any], Meta(description="Document of the policy that was asked.")]


def explain_none(policy: Policy, decision: Decision, replicas: ReplicaRegistry, eligible: Membership) -> Explanation:
    """Explain a request that is answered before any policy is asked."""
    excluded = why_ineligible(replicas, eligible)
    return Explanation(decision=decision, candidates=[], excluded=excluded, policy=policy.describe())


def explain(
    features: RequestFeatures, considered: Considered, replicas: ReplicaRegistry, eligible: Membership
) -> Explanation:
    """Explain a request that a policy was asked about; a refused one is ranked all the same, to show where it would go.

    considered: of a copy of the policy with copied dice, since ranking may move both.
    eligible: the replicas that may serve the model, before those were left out whose answers fail.
    """
    active, candidates = considered.active, considered.candidates
    policy = active.policy
    ranked = considered.ranked or policy.rank(features, candidates, considered.context)
    rows = _rows(features, policy, candidates, ranked, predicts=active.by_kv)
    return Explanation(
        decision=considered.decision,
        prompt_tokens=candidates.prompt_tokens,
        resident_tokens=rows[0].resident_tokens if considered.ranked else UNSET,
        candidates=rows,
        excluded=why_excluded(replicas, eligible, candidates),
        policy=policy.describe(),
        **_margin(candidates, ranked, score_unit(policy)),
    )


def _margin(candidates: Candidates, ranked: Sequence[Ranked], unit: str) -> dict[str, Any]:
    if len(ranked) < 2:
        return {}
    best, rival = ranked[:2]
    margin = rival.score - best.score
    sentence = would_change(candidates.ids[best.slot], candidates.ids[rival.slot], margin, unit)
    return {"margin": finite(margin), "margin_unit": unit or UNSET, "would_change": sentence}


def _rows(
    features: RequestFeatures, policy: Policy, candidates: Candidates, ranked: Sequence[Ranked], *, predicts: bool
) -> list[CandidateView]:
    """Return the candidates, those of the ranking first and in its order."""
    terms = {name: column.tolist() for name, column in policy.terms(features, candidates).items()}
    places = {place.slot: (at, place) for at, place in enumerate(ranked, 1)}
    home = home_of(candidates)
    rows = []
    for at, row in enumerate(candidates):
        rank, place = places.get(row.slot, (None, None))
        view = CandidateView(
            replica=row.replica,
            in_flight=row.in_flight,
            in_flight_tokens=row.in_flight_tokens,
            resident_tokens=candidates.resident.tokens(row.slot) if predicts else UNSET,
            is_home=True if row.slot == home else UNSET,
            pinned=row.slot == candidates.pin,
            adapter_loaded=candidates.adapter is not None and row.slot in candidates.adapter.holders,
            terms=shown_terms(terms, at),
            rank=rank,
            score=finite(place.score) if place is not None else UNSET,
            reason=place.reason if place is not None else None,
        )
        rows.append(view)
    rows.sort(key=lambda view: view.rank or len(rows) + 1)
    return rows


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
