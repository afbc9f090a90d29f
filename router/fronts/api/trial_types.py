"""Bodies of the operations that try policies: dry run, shadow and rollout."""

from __future__ import annotations

import math
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

from pointsman.router.decide.arms import Arm, Bounds
from pointsman.router.decide.comparison import HELD, REFUSED, Comparison, Tally
from pointsman.router.decide.rollout import Rollout
from pointsman.router.decide.shadow import Shadow
from pointsman.router.fronts.api.policy_types import Why
from pointsman.router.process.moments import rfc3339

MOVES_SHOWN = 50
"""Pairs of replicas in an answer, those with the most requests first."""


class Gain(msgspec.Struct, frozen=True, kw_only=True):
    """A sum over requests, and the same for one request."""

    sum: float
    per_request: float


class Means(msgspec.Struct, frozen=True, kw_only=True):
    """Predictions for the two choices, a mean over the requests that have both."""

    made: Annotated[float, Meta(description="Prediction for the decision that was made.")]
    candidate: Annotated[float, Meta(description="Prediction for the choice of the policy that is compared.")]


class Compared(msgspec.Struct, frozen=True, kw_only=True):
    """Two policies on the same requests."""

    judged: Annotated[int, Meta(description="Requests that both policies decided.")]
    moved: Annotated[int, Meta(description="Requests that the compared policy sends elsewhere.")]
    moved_share: Annotated[float, Meta(description="Share of judged requests that move.")]
    tied: Annotated[
        int,
        Meta(description="Moved requests for which the compared policy holds both replicas for equal: dice decide."),
    ]
    predicted: Annotated[int, Meta(description="Requests with a prediction for both choices; sums are about those.")]
    regret_ms: Annotated[
        Gain,
        Meta(
            description="Predicted time to first token of the decisions made less that of the compared policy's "
            "choices; negative where the compared policy is slower."
        ),
    ]
    cached_tokens: Annotated[
        Gain,
        Meta(
            description="Prompt tokens predicted to be cached under the compared policy's choices less those under "
            "the decisions made."
        ),
    ]
    ttft_ms: Annotated[Means, Meta(description="Predicted time to first token.")]


class Move(msgspec.Struct, frozen=True, kw_only=True):
    """Requests that move from one replica to another."""

    before: Annotated[str, Meta(description=f"Replica of the decision made, or `{REFUSED}`.")] = msgspec.field(
        name="from"
    )
    after: Annotated[str, Meta(description=f"Choice of the compared policy: a replica, `{REFUSED}` or `{HELD}`.")] = (
        msgspec.field(name="to")
    )
    requests: int


class ComparedWhole(Compared, frozen=True, kw_only=True):
    """Two policies on the same requests, in all and in detail."""

    moves: Annotated[list[Move], Meta(description=f"Largest {MOVES_SHOWN} moves, the most requests first.")]
    moves_left_out: Annotated[int, Meta(description="Moved requests that `moves` leaves out.")]
    by_reason: Annotated[dict[str, Compared], Meta(description="Numbers by reason of the decision made.")]


class ShadowRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Order to have a document decide beside the live policy."""

    document: Annotated[dict[str, Any], Meta(description="Policy document, as for PUT /v1/policy.")]
    sample: Annotated[float, Meta(ge=0, le=1, description="Share of requests that the shadow decides, 0 to 1.")] = 1.0
    why: Why = ""


class ShadowCost(msgspec.Struct, frozen=True, kw_only=True):
    """Time that the shadow's decisions take, in microseconds."""

    mean: float
    longest: float


class ShadowState(msgspec.Struct, frozen=True, kw_only=True):
    """The policy that decides beside the live one, and how the two compare."""

    state: Annotated[str, Meta(description="`running`, or `failed`: switched off, for the reason in `error`.")]
    document: Annotated[dict[str, Any], Meta(description="The document, defaults filled in.")]
    sample: float
    author: str
    why: str
    started_at: Annotated[str, Meta(description="Time when the shadow was put, RFC 3339.")]
    since: Annotated[
        str, Meta(description="Time from which requests are compared, RFC 3339: another live policy begins anew.")
    ]
    errors: Annotated[int, Meta(description="Exceptions that the shadow's policies raised.")]
    error: Annotated[
        str | UnsetType, Meta(description="Reason why the shadow is switched off; before that, its last exception.")
    ] = UNSET
    result: ComparedWhole
    decision_us: ShadowCost
    warnings: Annotated[
        list[str], Meta(description="Sentences on what keeps the shadow from deciding as it would if it were live.")
    ] = []


class DryRunRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A document to try on past decisions."""

    document: Annotated[dict[str, Any], Meta(description="Policy document, as for PUT /v1/policy.")]
    last: Annotated[int, Meta(ge=1, le=100_000, description="Number of decisions, the latest ones.")] = 1000
    model: Annotated[str, Meta(description="Model of the requests; empty: all.")] = ""
    tenant: Annotated[
        str, Meta(description="Tenant of the requests, or the hash that is shown for it; empty: all.")
    ] = ""


class DryRunAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Decisions that a document would have made, compared with those that were made."""

    document: Annotated[dict[str, Any], Meta(description="The document, defaults filled in.")]
    looked_at: Annotated[int, Meta(description="Decisions that were looked at, judged or not.")]
    first_at: Annotated[str | UnsetType, Meta(description="Time of the earliest of them, RFC 3339.")] = UNSET
    last_at: Annotated[str | UnsetType, Meta(description="Time of the latest of them, RFC 3339.")] = UNSET
    result: ComparedWhole
    unjudged: Annotated[dict[str, int], Meta(description="Decisions that could not be judged, by cause.")]
    missing_signals: Annotated[
        list[str], Meta(description="Signals whose lack made `not-gathered` decisions impossible to judge.")
    ]
    partial: Annotated[
        int,
        Meta(
            description="Judged decisions of which not all candidates were kept, since there were more than 64: a "
            "replica beyond those that were kept could not be chosen."
        ),
    ]
    measured_ttft_ms: Annotated[
        float | UnsetType,
        Meta(description="Mean time to first token that was measured of these requests, where any was."),
    ] = UNSET
    error: Annotated[str | UnsetType, Meta(description="First exception that the policy raised.")] = UNSET
    notes: Annotated[list[str], Meta(description="Sentences on what the numbers do not say.")]


class RolloutRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Order to have a document decide a share of new sessions, and more as long as it is no worse."""

    document: Annotated[dict[str, Any], Meta(description="Policy document, as for PUT /v1/policy.")]
    steps: Annotated[
        tuple[Annotated[float, Meta(gt=0, le=1)], ...],
        Meta(
            min_length=1,
            max_length=20,
            description="Shares of new sessions, ascending. After the last one below 1 the document is live.",
        ),
    ] = (0.1, 0.5, 1.0)
    step_s: Annotated[float, Meta(ge=1, le=86_400, description="Shortest time of a step, in seconds.")] = 300.0
    bounds: Bounds = Bounds()
    min_requests: Annotated[
        int,
        Meta(ge=1, le=1_000_000, description="Requests that must have ended under each policy before a step is over."),
    ] = 100
    why: Why = ""


class Percentiles(msgspec.Struct, frozen=True, kw_only=True):
    """Time to first token in milliseconds, of the latest 2,000 requests; of a rollout, of its present step."""

    p50: float
    p95: float
    p99: float


class ArmView(msgspec.Struct, frozen=True, kw_only=True):
    """Requests that one policy decided in the present step, of sessions that began in it."""

    requests: Annotated[int, Meta(description="Requests that ended.")]
    errors: Annotated[int, Meta(description="Answers with a status of 5xx, and streams that the replica cut.")]
    error_share: float
    refused: Annotated[int, Meta(description="Requests refused with 429.")]
    measured: Annotated[int, Meta(description="Requests whose time to first token is known.")]
    ttft_ms: Percentiles | None


class RolloutView(msgspec.Struct, frozen=True, kw_only=True):
    """A rollout and how its policy compares with the live one."""

    state: Annotated[str, Meta(description="running, promoted, returned, aborted or overtaken")]
    ended: Annotated[str | UnsetType, Meta(description="Reason why the rollout ended without being promoted.")] = UNSET
    document: Annotated[dict[str, Any], Meta(description="The document, defaults filled in.")]
    revision: Annotated[int, Meta(description="Revision that decisions of the document show while it is rolled out.")]
    author: str
    why: str
    started_at: Annotated[str, Meta(description="Time of the start, RFC 3339.")]
    steps: list[float]
    step: Annotated[int, Meta(description="Number of the present step, from 1.")]
    share: Annotated[float, Meta(description="Share of new sessions that the document decides.")]
    step_s: float
    step_age_s: Annotated[float, Meta(description="Seconds since the present step began.")]
    bounds: Bounds
    min_requests: int
    waits_for: Annotated[str | UnsetType, Meta(description="Requests that are missing for a verdict.")] = UNSET
    live: Annotated[ArmView, Meta(description="Requests under the live policy.")]
    candidate: Annotated[ArmView, Meta(description="Requests under the document.")]
    ttft_ratio: Annotated[
        float | None, Meta(description="Typical time to first token (geometric mean) over that of the live policy.")
    ]
    not_compared: Annotated[
        int, Meta(description="Requests of sessions that began before the rollout, or in an earlier step.")
    ]
    warnings: Annotated[
        list[str], Meta(description="Sentences on what keeps the document from deciding as it would if it were live.")
    ] = []


def compared(tally: Tally) -> Compared:
    """The numbers of one tally."""
    return Compared(**_numbers(tally))


def compared_whole(comparison: Comparison) -> ComparedWhole:
    """The numbers of a comparison, in all and in detail."""
    shown = comparison.moves.most_common(MOVES_SHOWN)
    return ComparedWhole(
        **_numbers(comparison.total),
        moves=[Move(before=had, after=other, requests=count) for (had, other), count in shown],
        moves_left_out=comparison.total.moved - sum(count for _, count in shown),
        by_reason={str(reason): compared(tally) for reason, tally in sorted(comparison.by_reason.items())},
    )


def shadow_state(shadow: Shadow, warnings: list[str]) -> ShadowState:
    """The state of a shadow."""
    return ShadowState(
        state=shadow.state,
        document=shadow.policies.describe(),
        sample=shadow.sample,
        author=shadow.put.author,
        why=shadow.put.why,
        started_at=rfc3339(shadow.put.at_s),
        since=rfc3339(shadow.since_s),
        errors=shadow.errors,
        error=shadow.error or UNSET,
        result=compared_whole(shadow.comparison),
        decision_us=ShadowCost(
            mean=round(1e6 * shadow.spent_s / max(1, shadow.asked), 1), longest=round(1e6 * shadow.longest_s, 1)
        ),
        warnings=warnings,
    )


def rollout_view(rollout: Rollout, now_s: float, warnings: list[str]) -> RolloutView:
    """The state of a rollout; `now_s` by the router's clock."""
    plan, candidate, live = rollout.plan, rollout.candidate_arm, rollout.live_arm
    ratio = math.exp(candidate.slower_than(live)[0]) if candidate.measured and live.measured else None
    return RolloutView(
        state=rollout.state,
        ended=rollout.why_ended or UNSET,
        document=rollout.candidate.policies.describe(),
        revision=rollout.candidate.revision,
        author=rollout.put.author,
        why=rollout.put.why,
        started_at=rfc3339(rollout.put.at_s),
        steps=list(plan.steps),
        step=rollout.step_number + 1,
        share=rollout.share,
        step_s=plan.step_s,
        step_age_s=round(now_s - rollout.step_began_s, 1),
        bounds=plan.bounds,
        min_requests=plan.min_requests,
        waits_for=rollout.waits_for or UNSET,
        live=_arm(live),
        candidate=_arm(candidate),
        ttft_ratio=None if ratio is None else round(ratio, 3),
        not_compared=rollout.not_compared,
        warnings=warnings,
    )


def percentiles_of(arm: Arm) -> Percentiles | None:
    """Times to first token of the requests of one side; None where none is known."""
    times = [arm.percentile_ms(share) for share in (0.5, 0.95, 0.99)]
    p50, p95, p99 = (round(took_ms, 1) if took_ms is not None else 0.0 for took_ms in times)
    return Percentiles(p50=p50, p95=p95, p99=p99) if arm.measured else None


def _arm(arm: Arm) -> ArmView:
    return ArmView(
        requests=arm.requests,
        errors=arm.errors,
        error_share=round(arm.error_share, 4),
        refused=arm.refused,
        measured=arm.measured,
        ttft_ms=percentiles_of(arm),
    )


def _numbers(tally: Tally) -> dict[str, Any]:
    predicted = max(1, tally.predicted)
    saved_ms, more = tally.made_ms - tally.other_ms, tally.other_cached - tally.made_cached
    return {
        "judged": tally.judged,
        "moved": tally.moved,
        "moved_share": round(tally.moved / max(1, tally.judged), 4),
        "tied": tally.tied,
        "predicted": tally.predicted,
        "regret_ms": Gain(sum=round(saved_ms, 1), per_request=round(saved_ms / predicted, 3)),
        "cached_tokens": Gain(sum=more, per_request=round(more / predicted, 1)),
        "ttft_ms": Means(made=round(tally.made_ms / predicted, 2), candidate=round(tally.other_ms / predicted, 2)),
    }
