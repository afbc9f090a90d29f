"""Limits in a decision: a request that is over one is refused before a replica is chosen."""

from __future__ import annotations

from pointsman.policies.decision import Decision, Reason
from pointsman.policies.request import RequestFeatures
from pointsman.router.decide.features import expected_tokens
from pointsman.router.tenancy.limits import Limits

FORBIDDEN = 403


def limit(limits: Limits, features: RequestFeatures, now_s: float) -> Decision | None:
    """Lets a request in and takes what it is expected to use, or returns the decision that refuses it."""
    refused = limits.refuses(
        features.tenant, features.key, features.model, features.request_id, expected_tokens(features), now_s
    )
    if refused is None:
        return None
    if refused.status == FORBIDDEN:
        name = features.model.encode("utf-8", "replace").decode()
        return Decision(Reason.MODEL_FORBIDDEN, status=FORBIDDEN, model=name)
    return Decision(
        Reason.LIMIT,
        status=refused.status,
        retry_after_s=refused.retry_after_s,
        limit=f"{refused.limit} of {refused.scope}",
    )
