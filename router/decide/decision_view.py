"""A past decision as people read it: asked, considered, answered, and what came of it.

The shape is that of `GET /v1/decisions`, of the access log and of the page. What is not known is absent, not zero.
Terms of the score are computed here, from the copied columns, by a policy built from the document that was live then;
a decision pays for none of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

from pointsman.policies.candidates import Candidates
from pointsman.policies.policy import Policy, score_unit
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
from pointsman.router.decide.comparison import HELD, REFUSED
from pointsman.router.process.moments import rfc3339
from pointsman.router.requests.decision_record import DecisionRecord, KeptCandidates, ShadowChoice
from pointsman.router.requests.end_line import NO_SERVER, Line
from pointsman.router.requests.end_line import UNSET as UNSET_TEXT

HASH_BYTES = 8
"""Length of the keyed hash shown instead of a session or tenant, in bytes."""


class PolicyRef(msgspec.Struct, frozen=True, kw_only=True):
    """The policy that decided."""

    name: str
    revision: Annotated[
        int | UnsetType,
        Meta(description="Revision of the live policy, see GET /v1/policy/revisions; absent for another policy."),
    ] = UNSET


class DecisionOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """Outcome of a request, as HAProxy and the engine reported it."""

    replica: Annotated[Text, Meta(description="Replica that served; absent where none did.")] = UNSET
    status: Annotated[Whole, Meta(description="HTTP status that the client received.")] = UNSET
    ttft_ms: Annotated[
        Real,
        Meta(
            description="Time to first token: as HAProxy measured it from the request on, else as the engine did from "
            "the request's arrival there."
        ),
    ] = UNSET
    duration_ms: Annotated[Whole, Meta(description="From the request's first byte to the answer's last.")] = UNSET
    prompt_tokens: Annotated[Whole, Meta(description="Length of the prompt as the engine counted it.")] = UNSET
    predicted_cached: Annotated[
        Whole, Meta(description="Prompt tokens that the replica that served was predicted to hold.")
    ] = UNSET
    actual_cached: Annotated[Whole, Meta(description="Prompt tokens that the engine found in its cache.")] = UNSET
    prefill_cached: Annotated[Whole, Meta(description="Prompt tokens that the prefill replica found in its cache.")] = (
        UNSET
    )
    output_tokens: Whole = UNSET
    decode_ms: Annotated[Real, Meta(description="From the first token to the last.")] = UNSET
    retries: Annotated[Whole, Meta(description="Further attempts of HAProxy; absent without any.")] = UNSET
    ended: Annotated[
        Text,
        Meta(
            description="`stop` or `length` as the engine said; `complete` where it said nothing; `refused` by the "
            "router; cut by `client`, `replica` or `edge`; absent while the request is in flight."
        ),
    ] = UNSET


class ShadowView(msgspec.Struct, frozen=True, kw_only=True):
    """Choice of the policy that decided beside the live one, to no effect."""

    policy: str
    first: Annotated[str, Meta(description=f"First choice: a replica, `{REFUSED}` or `{HELD}`.")]
    reason: str
    score: Annotated[Real, Meta(description="Score of that replica, in the unit of the policy.")] = UNSET
    ttft_ms: Annotated[Real, Meta(description="Predicted time to first token of this choice.")] = UNSET
    made_ttft_ms: Annotated[Real, Meta(description="Predicted time to first token of the decision made.")] = UNSET


class DecisionView(msgspec.Struct, frozen=True, kw_only=True):
    """One decision and its outcome."""

    id: Annotated[str, Meta(description="`x-request-id` between HAProxy, router and replica.")]
    at: Annotated[str, Meta(description="Time of the decision, RFC 3339 in UTC.")]
    edge: Annotated[Text, Meta(description="Id of the edge that decided, where edges share state.")] = UNSET
    client_id: Annotated[Text, Meta(description="`x-request-id` as the client sent it, where it was well-formed.")] = (
        UNSET
    )
    trace_id: Annotated[Text, Meta(description="Id of the request's trace, where it is traced.")] = UNSET
    path: Text = UNSET
    model: Text = UNSET
    alias: Annotated[Text, Meta(description="Alias that was asked for, of which `model` is a version.")] = UNSET
    session: Text = UNSET
    tenant: Text = UNSET
    prompt_tokens: Annotated[Whole, Meta(description="Predicted length of the prompt.")] = UNSET
    resident_tokens: Annotated[
        Whole, Meta(description="Prompt tokens that the first choice was predicted to hold.")
    ] = UNSET
    policy: PolicyRef | UnsetType = UNSET
    reason: str
    first: Annotated[Text, Meta(description="First choice.")] = UNSET
    second: Annotated[Text, Meta(description="Second choice.")] = UNSET
    prefill: Annotated[Text, Meta(description="Replica that computes the prompt for the first choice.")] = UNSET
    pairing: Annotated[Text, Meta(description="Why there is a prefill replica or none.")] = UNSET
    status: Annotated[Whole, Meta(description="HTTP status of a refusal.")] = UNSET
    held_ms: Annotated[Real, Meta(description="Time that HAProxy held the request before this decision.")] = UNSET
    score: Annotated[Real, Meta(description="Score of the first choice.")] = UNSET
    shadow: ShadowView | UnsetType = UNSET
    outcome: DecisionOutcome | UnsetType = UNSET
    candidates: Annotated[
        list[ConsideredCandidate] | UnsetType,
        Meta(description="Candidates with their signals, the best first; only in the view of one decision."),
    ] = UNSET
    candidates_total: Annotated[
        Whole, Meta(description="Number of candidates, where more were considered than are shown.")
    ] = UNSET
    excluded: Annotated[
        dict[str, str] | UnsetType, Meta(description="Replicas that could not be chosen, each with the cause.")
    ] = UNSET
    would_change: Annotated[
        Text, Meta(description="Change that would have made the second best candidate the choice, as a sentence.")
    ] = UNSET


class DecisionViews:
    """Views of records."""

    def __init__(
        self, policies: Callable[[str, int, str], Policy | None], *, edge: Callable[[], str] = str, secret: str = ""
    ) -> None:
        """Make the renderer of one router's records.

        policies: the policy of a name, revision and model, built anew; None where it is no longer known.
        edge: id of this edge; empty for one that is alone.
        secret: key of the hashes that stand for sessions and tenants; empty: they are shown as they are.
        """
        self._policies = policies
        self._edge = edge
        self._secret = secret.encode()

    def shown(self, name: str) -> str:
        """Return a session or tenant as people see it."""
        if not self._secret or not name:
            return name
        return hashlib.blake2b(
            name.encode("utf-8", "surrogateescape"), digest_size=HASH_BYTES, key=self._secret
        ).hexdigest()

    def view(self, record: DecisionRecord, since_1970_s: float, *, detail: bool = False) -> DecisionView:
        """Return one decision.

        since_1970_s: what to add to the record's clock to get seconds since 1970.
        detail: whether to show candidates, exclusions and what would have changed the choice.
        """
        features, decision, kept = record.features, record.decision, record.kept
        policy = PolicyRef(name=record.policy, revision=record.revision or UNSET) if record.policy else UNSET
        why = self._why(record, kept) if detail and kept is not None else {}
        if detail and record.excluded is not None:
            why["excluded"] = dict(record.excluded)
        predicts = kept is not None and bool(kept.table)
        return DecisionView(
            id=features.request_id,
            at=rfc3339(record.at_s + since_1970_s),
            edge=self._edge() or UNSET,
            client_id=UNSET if record.line is None or record.line.cid == UNSET_TEXT else record.line.cid,
            trace_id=f"{record.trace.trace_id:032x}" if record.trace is not None else UNSET,
            path=features.path or UNSET,
            model=_text(features.model) or UNSET,
            alias=_text(features.alias) or UNSET,
            session=_text(self.shown(features.session)) or UNSET,
            tenant=_text(self.shown(features.tenant)) or UNSET,
            prompt_tokens=kept.seen.prompt_tokens if kept is not None and predicts else UNSET,
            resident_tokens=record.predicted_cached if record.predicted_cached >= 0 else UNSET,
            policy=policy,
            reason=decision.reason,
            first=decision.first or UNSET,
            second=decision.second or UNSET,
            prefill=decision.prefill or UNSET,
            pairing=decision.pairing or UNSET,
            status=decision.status or UNSET,
            held_ms=round(1000 * record.held_s, 1) or UNSET,
            score=finite(record.score) if decision.first and kept is not None else UNSET,
            shadow=_shadow(record.shadow) if record.shadow is not None else UNSET,
            outcome=_outcome(record) if record.line is not None or record.first is not None else UNSET,
            **why,
        )

    def _why(self, record: DecisionRecord, kept: KeptCandidates) -> dict[str, Any]:
        candidates = kept.candidates()
        policy = self._policies(record.policy, record.revision, record.features.model)
        terms: Mapping[str, Any] = {}
        unit = ""
        if policy is not None:
            unit = score_unit(policy)
            terms = {name: column.tolist() for name, column in policy.terms(record.features, candidates).items()}
            policy.close()
        rows = [_row(candidates, at, terms, predicts=bool(kept.table)) for at in range(len(candidates))]
        decision = record.decision
        order = {decision.first: -2, decision.second: -1}
        rows.sort(key=lambda row: (order.get(row.replica, 0), _score_of(row)))
        found: dict[str, Any] = {"candidates": rows}
        if len(rows) < len(kept.seen.slots):
            found["candidates_total"] = len(kept.seen.slots)
        if rows:
            found["would_change"] = _would_change(rows, unit)
        return found


def _row(candidates: Candidates, at: int, terms: Mapping[str, list[float]], *, predicts: bool) -> ConsideredCandidate:
    shown = shown_terms(terms, at)
    return ConsideredCandidate(
        replica=candidates.ids[at],
        in_flight=int(candidates.in_flight[at]),
        in_flight_tokens=int(candidates.in_flight_tokens[at]),
        resident_tokens=candidates.resident.tokens(at) if predicts else UNSET,
        score=round(sum(shown.values()), 3) if shown else UNSET,
        terms=shown if shown else UNSET,
        is_home=True if at == home_of(candidates) else UNSET,
    )


def _would_change(rows: list[ConsideredCandidate], unit: str) -> Text:
    """Sentence about the change that would have made another candidate the choice.

    rows: the first choice, then all others.
    """
    first, *others = rows
    known = [row for row in others if row.score is not UNSET]
    if first.score is UNSET or not known:
        return UNSET
    rival = min(known, key=_score_of)
    return would_change(first.replica, rival.replica, _score_of(rival) - first.score, unit)


def _score_of(row: ConsideredCandidate) -> float:
    return 0.0 if row.score is UNSET else row.score


def _shadow(choice: ShadowChoice) -> ShadowView:
    return ShadowView(
        policy=choice.policy,
        first=choice.first,
        reason=choice.reason,
        score=UNSET if choice.first in (REFUSED, HELD) else finite(choice.score),
        ttft_ms=UNSET if choice.ttft_ms is None else finite(choice.ttft_ms),
        made_ttft_ms=UNSET if choice.made_ttft_ms is None else finite(choice.made_ttft_ms),
    )


def _outcome(record: DecisionRecord) -> DecisionOutcome:
    line, first, finished = record.line, record.first, record.finished
    found: dict[str, Any] = {}
    if line is not None:
        if not line.srv.startswith(NO_SERVER):
            found["replica"] = line.srv
            found["predicted_cached"] = _predicted(record, line.srv)
        if line.st > 0:
            found["status"] = line.st
        if line.ta >= 0:
            found["duration_ms"] = line.ta
        if line.ttft.isdecimal():
            found["ttft_ms"] = float(line.ttft)
        if (retries := line.rc.lstrip("+")) not in ("", "0") and retries.isdecimal():
            found["retries"] = int(retries)
        found["ended"] = _ended(line, record)
    if first is not None:
        found["prompt_tokens"], found["actual_cached"] = first.prompt_tokens, first.cached_tokens
        if first.ttft_ms and "ttft_ms" not in found:
            found["ttft_ms"] = round(first.ttft_ms, 1)
    if record.prefill_first is not None:
        found["prefill_cached"] = record.prefill_first.cached_tokens
    if finished is not None:
        found["output_tokens"] = finished.completion_tokens
        if finished.decode_ms:
            found["decode_ms"] = round(finished.decode_ms, 1)
    return DecisionOutcome(**found)


def _predicted(record: DecisionRecord, replica: str) -> Whole:
    """Tokens that a replica was predicted to hold; absent where nothing was predicted of it."""
    if record.predicted_cached < 0 or record.kept is None:
        return UNSET
    if replica == record.decision.first:
        return record.predicted_cached
    ids = record.kept.ids
    return record.kept.seen.resident.tokens(ids.index(replica)) if replica in ids else UNSET


CUT_BY = {"C": "client", "c": "client", "S": "replica", "s": "replica"}
"""First letter of HAProxy's termination state -> who cut the request."""


def _ended(line: Line, record: DecisionRecord) -> str:
    if record.decision.status:
        return "refused"
    cut = line.ts[:1]
    if cut in CUT_BY:
        return CUT_BY[cut]
    if cut not in ("-", ""):
        return "edge"
    if record.finished is not None and record.finished.reason:
        return record.finished.reason
    return "complete"


def _text(text: str) -> str:
    """Return text that can be encoded; lone surrogates stand for bytes that were no UTF-8."""
    return text.encode("utf-8", "replace").decode()
