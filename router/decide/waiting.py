"""Answers and charges of requests that wait, or that others wait for. `router/decide/hold.py` gives the turns."""

from __future__ import annotations

from pointsman.policies.admission import DEFAULT_ADMISSION, Admission
from pointsman.policies.candidates import NO_SLOT, Candidates
from pointsman.policies.decision import Decision, Reason, Refusal
from pointsman.policies.policy import Context
from pointsman.policies.request import BATCH, RequestFeatures
from pointsman.router.decide.considered import ActivePolicy, Considered
from pointsman.router.decide.features import BYTES_PER_TOKEN
from pointsman.router.decide.gathered import WAITS, gathering_slot
from pointsman.router.decide.live_policies import PolicyChoice
from pointsman.router.fleet.load import LoadTable
from pointsman.router.fleet.memberships import Membership
from pointsman.router.fleet.sessions import SessionTable
from pointsman.router.kv.state import KVState
from pointsman.router.requests.fair_share import WATCH_S, FairShares
from pointsman.router.requests.hold_queue import HoldQueue


def refused(refusal: Refusal, *, may_wait: bool) -> Decision:
    """The answer for a refusal: to be held for `hold_ms` where the policy lets it wait and there is a place."""
    hold_ms = max(1, round(refusal.wait_s * 1000)) if may_wait and refusal.wait_s > 0 else 0
    return Decision(refusal.reason, status=refusal.status, retry_after_s=refusal.retry_after_s, hold_ms=hold_ms)


def behind_others(admission: Admission | None, features: RequestFeatures, holds: HoldQueue) -> Decision | None:
    """The answer for a request of a model without a candidate at the moment, where others wait for one.

    None where it cannot wait with them.
    """
    if admission is None or not admission.wait_s or not holds.has_place(features):
        return None
    return refused(Refusal(Reason.ADMISSION, 429, admission.retry_after_s, admission.wait_s), may_wait=True)


def refusal_of(
    features: RequestFeatures,
    active: ActivePolicy,
    candidates: Candidates,
    context: Context,
    members: Membership,
    load: LoadTable,
    shares: FairShares,
) -> Refusal | None:
    """The refusal of a request that has to wait by the bounds of its policy; None for one that may go.

    members: the replicas that may serve the request.
    """
    delayed, waiting = 0.0, context.waiting
    if features.priority == BATCH:
        delayed = shares.of(features.model, members).delays.share(context.now_s)
        waiting = waiting or gathering_slot(candidates, load, active.admission) == WAITS
    admission = active.admission or DEFAULT_ADMISSION
    return admission.refusal(features.priority, candidates, waiting=waiting, batch=load.batch, delayed=delayed)


def count_placed(
    shares: FairShares, features: RequestFeatures, considered: Considered, members: Membership, load: LoadTable
) -> None:
    """Counts a request that is about to be placed: towards its tenant's share, and whether a batch delays it."""
    if considered.active.admission is not None:
        charge(shares, features, considered, members)
    now_s = considered.context.now_s
    if features.priority == BATCH:
        shares.watched_until_s = now_s + WATCH_S
    elif now_s < shares.watched_until_s:
        shares.of(features.model, members).delays.placed(now_s, delayed=_is_delayed(considered, load))


def _is_delayed(considered: Considered, load: LoadTable) -> bool:
    """Whether a request waits for a prompt, of whomever, while one of a batch is computed at any candidate."""
    candidates, slot = considered.candidates, considered.ranked[0].slot
    if not load.batch_prompts[candidates.slots].any():
        return False
    if candidates.kv is None:
        return bool(load.batch_prompts[slot])
    return bool(candidates.kv.cells.prefill_ms[slot] > 0.0)


def charge(shares: FairShares, features: RequestFeatures, considered: Considered, members: Membership) -> None:
    """Counts a placed request towards its tenant's share of the replicas that may serve it."""
    tokens = considered.candidates.prompt_tokens
    if not tokens:
        tokens = min((features.body_bytes - features.missing_bytes) // BYTES_PER_TOKEN, considered.longest)
    share, owner = shares.of(features.model, members), (features.priority, features.tenant)
    shares.charge(features.request_id, share, owner, tokens, features.max_tokens)


def is_under_way(
    features: RequestFeatures, now_s: float, choice: PolicyChoice, sessions: SessionTable, kv: KVState, longest: int
) -> bool:
    """Whether a request goes on with a session that was served before, as far as the live policies go by that.

    longest: tokens of the longest prompt that counts in full.
    """
    session, pin_ttl_s = features.session, choice.pin_ttl_s
    if session and pin_ttl_s is not None and sessions.get(session, now_s, pin_ttl_s) is not None:
        return True
    known = kv.read(features, now_s, longest).conversation if choice.by_kv else None
    return known is not None and known.slot != NO_SLOT
