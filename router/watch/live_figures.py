"""An edge at this moment, for the page and for terminals: `LiveFigures` makes the document of `GET /v1/live`.

It is made when somebody asks, and once a second for all who follow, of what others count and keep anyway: while nobody
looks, nothing is computed and no task wakes. Replicas and records are looked at in slices, so that a lookup waits for
one slice at most; each row is true at its own moment.
"""

from __future__ import annotations

import asyncio
import math
from typing import Any, cast

import msgspec
from msgspec import UNSET, UnsetType

from pointsman.contract.registration import Role
from pointsman.policies.decision import Reason
from pointsman.router.core import Core
from pointsman.router.edges.sharing import Sharing
from pointsman.router.fleet.replica import Health, Replica
from pointsman.router.journal.followers import Followers
from pointsman.router.process.clock import Clock
from pointsman.router.process.moments import rfc3339
from pointsman.router.process.readiness import Readiness
from pointsman.router.process.slices import in_slices
from pointsman.router.watch.live_document import (
    LiveConversations,
    LiveDocument,
    LiveEdge,
    LiveFirstTokens,
    LiveHits,
    LiveRegret,
    LiveReplica,
    LiveRevision,
    LiveRollout,
)
from pointsman.router.watch.recent_requests import RecentRequests, look_back, percentile

EVERY_S = 1.0
"""Between two documents for those who follow: as often as a person reads."""

SLICE_ROWS = 64
"""Replicas whose rows are made before other tasks run: half a millisecond."""


class LiveFigures:
    """The maker of the document."""

    def __init__(self, core: Core, sharing: Sharing | None, readiness: Readiness, *, clock: Clock, wall: Clock) -> None:
        """sharing: None for an edge that is alone."""
        self._core = core
        self._sharing = sharing
        self._readiness = readiness
        self._clock = clock
        self._wall = wall
        self._encode = msgspec.json.Encoder().encode
        self.followers: Followers[bytes] = Followers()
        """Readers that get the document once a second, as JSON."""
        self._wanted = asyncio.Event()

    def __repr__(self) -> str:
        return f"LiveFigures({len(self.followers)} followers)"

    def wake(self) -> None:
        """Begin to hand documents on, since somebody follows."""
        self._wanted.set()

    async def run(self) -> None:
        """Hands on a document a second to those who follow, until cancelled; sleeps while nobody does."""
        while True:
            if not self.followers:
                self._wanted.clear()
                await self._wanted.wait()
            due_s = self._clock() + EVERY_S
            await asyncio.sleep(EVERY_S)
            while self.followers:
                self.followers.offer(await self.document())
                # After a long pause there is nothing to catch up with.
                due_s = max(due_s + EVERY_S, self._clock())
                await asyncio.sleep(due_s - self._clock())

    async def document(self) -> bytes:
        """Make the document of this moment, as JSON."""
        core = self._core
        at, now_s = rfc3339(self._wall()), self._clock()
        recent = await look_back(core, now_s)
        first_tokens = _first_tokens(recent)
        await asyncio.sleep(0)
        rows: list[bytes] = []
        for some in in_slices(sorted(core.replicas, key=lambda replica: replica.id), SLICE_ROWS):
            # A replica that left meanwhile has given its slot away.
            present = (replica for replica in some if core.replicas.get(replica.id) is replica)
            if encoded := self._encode([self._replica(replica, now_s) for replica in present])[1:-1]:
                rows.append(encoded)
            await asyncio.sleep(0)
        live, _ = core.kv.conversations.counts()
        keeps_records = core.decisions is not None
        by_reason = {reason: round(count / recent.rate_s, 2) for reason, count in recent.by_reason.most_common()}
        return self._encode(
            LiveDocument(
                at=at,
                edge=UNSET if self._sharing is None else self._sharing.info.name or core.edge,
                not_ready=self._readiness.missing(),
                degraded=self._readiness.impaired(),
                policy=self._policy(),
                rollout=self._rollout(),
                shadow=self._shadow(),
                over_s=round(recent.over_s, 1),
                requests_per_s=round(recent.by_reason.total() / recent.rate_s, 2) if keeps_records else UNSET,
                by_reason=by_reason,
                fail_open_per_s=by_reason.get(Reason.FAIL_OPEN, 0.0) if keeps_records else UNSET,
                in_flight=core.load.total_in_flight,
                ttft_ms=first_tokens,
                hit=_hits(recent),
                regret=_regret(recent),
                held=len(core.holds),
                conversations=LiveConversations(live=live, known=len(core.kv.conversations.by_name)),
                edges=self._edges(),
                replicas=cast(Any, msgspec.Raw(b"[%b]" % b",".join(rows))),
            )
        )

    def _policy(self) -> LiveRevision:
        revision = self._core.policy.revision
        return LiveRevision(
            name=self._core.pipeline.policy.name,
            revision=revision.revision,
            since=rfc3339(revision.at_s),
            author=revision.author or UNSET,
            why=revision.why or UNSET,
        )

    def _rollout(self) -> LiveRollout | UnsetType:
        rollout = self._core.trials.rollout
        if rollout is None or not self._core.trials.rolls_out:
            return UNSET
        return LiveRollout(name=rollout.candidate.main.name, share=rollout.share)

    def _shadow(self) -> str | UnsetType:
        shadow = self._core.trials.shadow
        return shadow.policies.main.name if shadow is not None and shadow.is_running else UNSET

    def _edges(self) -> list[LiveEdge]:
        if self._sharing is None:
            return []
        peers = sorted(self._sharing.protocol.peers, key=lambda peer: peer.info.name or peer.info.edge)
        return [
            LiveEdge(name=peer.info.name or peer.info.edge, state=peer.state, admin_url=peer.info.admin_url)
            for peer in peers
        ]

    def _replica(self, replica: Replica, now_s: float) -> LiveReplica:
        core, slot = self._core, replica.slot
        cells, load = core.kv.columns.cells, core.kv.cursors[slot].load
        hit_rate = core.kv.hit_rates.of(slot)
        return LiveReplica(
            id=replica.id,
            state=replica.state,
            model=replica.model or UNSET,
            role=UNSET if replica.role is Role.BOTH else str(replica.role),
            why=self._why(replica, now_s),
            in_flight=core.load.in_flight.item(slot),
            running=UNSET if load is None else load.running,
            waiting=UNSET if load is None else load.waiting,
            kv_used=UNSET if load is None else round(load.kv_usage, 3),
            kv_live=round(cells.fill[slot], 3) if cells.capacity[slot] < math.inf else UNSET,
            backlog_ms=round(cells.prefill_ms[slot], 1),
            hit_share=UNSET if hit_rate is None else round(hit_rate.actual, 3),
        )

    def _why(self, replica: Replica, now_s: float) -> str | UnsetType:
        """Why a replica gets no requests, or fewer, in a few words."""
        outliers, slot = self._core.outliers, replica.slot
        if replica.draining:
            return "drained by an operator"
        if replica.health is Health.STARTING:
            return "no health check has ended yet"
        if replica.health is Health.DOWN:
            seen = self._core.replicas.checks.of(slot)
            return f"health check: {seen.check.detail}" if seen is not None else "its health check fails"
        ejection = outliers.ejection(slot)
        if replica.ejected and ejection is not None:
            left_s = math.ceil(ejection.until_s - now_s)
            probe = f"probe in {left_s} s" if left_s > 0 else "due for a probe"
            return f"{ejection.failures} failed answers ({ejection.cause}), {probe}"
        demotion = outliers.demoted.get(slot)
        if demotion is not None:
            return f"gets {100 * demotion.share:.0f} % of its share ({demotion.cause})"
        return UNSET


def _first_tokens(recent: RecentRequests) -> dict[str, LiveFirstTokens]:
    found: dict[str, LiveFirstTokens] = {}
    for model, samples in sorted(recent.ttft_ms.items()):
        ascending = sorted(samples)
        found[model] = LiveFirstTokens(
            p50=round(percentile(ascending, 0.5), 1),
            p99=round(percentile(ascending, 0.99), 1),
            count=len(ascending),
        )
    return found


def _hits(recent: RecentRequests) -> LiveHits | UnsetType:
    tokens, foreseen = recent.tokens, recent.foreseen
    if not tokens.prompt:
        return UNSET
    known = foreseen.prompt > 0
    return LiveHits(
        prompt=tokens.prompt,
        actual=tokens.actual,
        predicted=foreseen.predicted if known else UNSET,
        best=foreseen.best if known else UNSET,
        share=round(tokens.actual / tokens.prompt, 4),
        share_best=round(foreseen.best / foreseen.prompt, 4) if known else UNSET,
        share_of_best=round(foreseen.actual / foreseen.best, 4) if foreseen.best else UNSET,
    )


def _regret(recent: RecentRequests) -> LiveRegret | UnsetType:
    if not recent.compared:
        return UNSET
    return LiveRegret(
        tokens=round(recent.given_up / recent.compared, 1), ms=round(recent.given_up_ms / recent.compared, 2)
    )
