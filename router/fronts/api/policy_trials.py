"""Policies that are tried before they are live, in the admin API."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from itertools import islice
from typing import Any

from msgspec import UNSET
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from pointsman.contract.config import join
from pointsman.contract.http_api import decode_body, json_answer, read_body, unfit, unfit_for
from pointsman.policies.errors import PolicyConfigError, PolicyError
from pointsman.policies.policy_set import PolicySet
from pointsman.policies.registry import build_policy_set
from pointsman.router.core import Core
from pointsman.router.decide.decision_filter import DecisionFilter
from pointsman.router.decide.dry_run import WHY_UNJUDGED, DryRun
from pointsman.router.decide.rollout import Plan, Rollout
from pointsman.router.decide.shadow import Shadow
from pointsman.router.fronts.api.audit import record
from pointsman.router.fronts.api.decisions import kept_decisions
from pointsman.router.fronts.api.guard import caller_of
from pointsman.router.fronts.api.trial_types import (
    DryRunAnswer,
    DryRunRequest,
    RolloutRequest,
    RolloutView,
    ShadowRequest,
    ShadowState,
    compared_whole,
    rollout_view,
    shadow_state,
)
from pointsman.router.process.clock import Clock
from pointsman.router.process.moments import rfc3339
from pointsman.router.requests.decision_record import DecisionRecord
from pointsman.router.watch.decision_feed import DecisionFeed

SLICE_S = 0.001
"""Time for which past decisions are judged before others have their turn."""

NO_SHADOW = "no policy decides beside the live one"

STATE_NOTE = (
    "Caches and queues are those that the policies in force made: a document that is live fills others. A shadow says "
    "the same of traffic to come, and a rollout measures."
)
PARTIAL_NOTE = "Of fleets of more than 64 replicas a part of the candidates is kept with each decision."


class TrialsFront:
    """Handlers of `/v1/policy/dry-run`, `/v1/policy/shadow` and `/v1/policy/rollout`."""

    def __init__(
        self, core: Core, feed: DecisionFeed | None, *, clock: Clock, stopwatch: Clock, max_body_bytes: int
    ) -> None:
        """feed: None on a router that keeps no decisions."""
        self._policy = core.policy
        self._trials = core.trials
        self._feed = feed
        self._clock = clock
        self._stopwatch = stopwatch
        self._max_body_bytes = max_body_bytes
        self._one_at_a_time = asyncio.Lock()

    async def dry_run_policy(self, request: Request) -> Response:
        asked = decode_body(await read_body(request, self._max_body_bytes), DryRunRequest)
        feed, policies = kept_decisions(self._feed), build_asked(asked.document)
        try:
            async with self._one_at_a_time:
                records = await self._latest(feed, asked)
                dry_run = await self._replay(policies, records)
            return json_answer(self._answer(feed, policies, records, dry_run))
        finally:
            policies.close()

    async def put_shadow(self, request: Request) -> Response:
        asked = decode_body(await read_body(request, self._max_body_bytes), ShadowRequest)
        policies = build_asked(asked.document)
        author = caller_of(request).name
        shadow = self._trials.start_shadow(policies, sample=asked.sample, author=author, why=asked.why)
        record(request, f"policy {policies.main.name} is the shadow, of a share of {asked.sample:g} of all requests")
        return json_answer(self._shadow_state(shadow))

    async def get_shadow(self, request: Request) -> Response:
        shadow = self._trials.shadow
        if shadow is None:
            raise HTTPException(404, NO_SHADOW)
        return json_answer(self._shadow_state(shadow))

    async def delete_shadow(self, request: Request) -> Response:
        if not self._trials.stop_shadow(caller_of(request).name):
            raise HTTPException(404, NO_SHADOW)
        record(request, "the shadow policy was taken away")
        return Response(status_code=204)

    def _shadow_state(self, shadow: Shadow) -> ShadowState:
        return shadow_state(shadow, self._policy.warnings(shadow.policies.describe()))

    async def start_rollout(self, request: Request) -> Response:
        asked = decode_body(await read_body(request, self._max_body_bytes), RolloutRequest)
        policies, plan, live = build_asked(asked.document), _plan(asked), self._policy
        if_match, author = request.headers.get("if-match"), caller_of(request).name
        if if_match not in (None, "*", live.etag):
            raise HTTPException(412, f"the live policy is {live.etag}, {live.revision_line}", {"etag": live.etag})
        if self._trials.rolls_out:
            raise HTTPException(409, "a rollout is running: end it first (DELETE /v1/policy/rollout)")
        if policies.describe() == live.document:
            raise HTTPException(409, f"the document is live already, as {live.revision_line}")
        rollout = self._trials.start_rollout(policies, plan, self._clock(), author=author, why=asked.why)
        record(request, f"rollout of policy {policies.main.name} began with {rollout.share:.0%} of new sessions")
        return json_answer(self._rollout_view(rollout), 201)

    async def get_rollout(self, request: Request) -> Response:
        rollout = self._trials.rollout
        if rollout is None:
            raise HTTPException(404, "no policy was rolled out since the router started")
        return json_answer(self._rollout_view(rollout))

    async def stop_rollout(self, request: Request) -> Response:
        if not self._trials.stop_rollout(caller_of(request).name):
            raise HTTPException(404, "no rollout is running")
        record(request, "the rollout was ended: the live policy decides all sessions")
        return Response(status_code=204)

    def _rollout_view(self, rollout: Rollout) -> RolloutView:
        warnings = self._policy.warnings(rollout.candidate.policies.describe()) if self._trials.rolls_out else []
        return rollout_view(rollout, self._clock(), warnings)

    async def _latest(self, feed: DecisionFeed, asked: DryRunRequest) -> list[DecisionRecord]:
        """The records that are asked for, oldest first."""
        chosen = DecisionFilter(model=asked.model, tenant=asked.tenant)
        records, found, since_s = iter(feed.log), list[DecisionRecord](), self._stopwatch()
        while len(found) < asked.last and (some := list(islice(records, 16))):
            found += [one for one in some if feed.wants(chosen, one)]
            since_s = await self._breathe(since_s)
        return found[: asked.last][::-1]

    async def _replay(self, policies: PolicySet, records: list[DecisionRecord]) -> DryRun:
        dry_run, since_s = DryRun(policies), self._stopwatch()
        for one in records:
            dry_run.judge(one)
            since_s = await self._breathe(since_s)
        return dry_run

    async def _breathe(self, since_s: float) -> float:
        """Let others have their turn where the slice that began at `since_s` is over; when the present slice began."""
        if self._stopwatch() - since_s < SLICE_S:
            return since_s
        await asyncio.sleep(0)
        return self._stopwatch()

    def _answer(
        self, feed: DecisionFeed, policies: PolicySet, records: list[DecisionRecord], dry_run: DryRun
    ) -> DryRunAnswer:
        times = [feed.wall_s(one) for one in (records[0], records[-1])] if records else []
        measured = [ms for one in records if (ms := one.ttft_ms) is not None]
        notes = [STATE_NOTE, *(f"{cause}: {WHY_UNJUDGED[cause]}" for cause in sorted(dry_run.unjudged))]
        return DryRunAnswer(
            document=policies.describe(),
            looked_at=len(records),
            first_at=rfc3339(times[0]) if times else UNSET,
            last_at=rfc3339(times[1]) if times else UNSET,
            result=compared_whole(dry_run.comparison),
            unjudged=dict(sorted(dry_run.unjudged.items())),
            missing_signals=sorted(str(need.name).lower() for need in dry_run.missing),
            partial=dry_run.partial,
            measured_ttft_ms=round(sum(measured) / len(measured), 2) if measured else UNSET,
            error=dry_run.error or UNSET,
            notes=[*notes, PARTIAL_NOTE] if dry_run.partial else notes,
        )


def _plan(asked: RolloutRequest) -> Plan:
    """The plan of a rollout. Raises HTTPException (422) for steps that do not ascend, or that try nothing."""
    steps = tuple(step for step in asked.steps if step < 1)
    if list(asked.steps) != sorted(set(asked.steps)) or not steps:
        raise unfit("steps", asked.steps, "shares that ascend, the first of them below 1")
    return Plan(steps=steps, step_s=asked.step_s, bounds=asked.bounds, min_requests=asked.min_requests)


def build_asked(document: Mapping[str, Any]) -> PolicySet:
    """Build the policies of the field `document` of a body. Raises HTTPException (422)."""
    try:
        return build_policy_set(document)
    except PolicyConfigError as error:
        at = join("document", error.key)
        there = PolicyConfigError(at, error.value, error.expected, error.problem, error.source)
        raise unfit_for(there)  # noqa: B904 -- its cause is the error with the path in the body
    except PolicyError as error:
        raise HTTPException(422, str(error)) from error
