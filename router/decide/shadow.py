"""A policy that decides beside the live one: on the same requests, with the same signals, and to no effect.

`Shadow` owns its policies, their dice, a table of pins and the comparison. What always holds: it reserves, pins and
holds nothing that anybody else reads, and what its policies raise, or take too long for, ends the shadow and not a
request. It sees the fleet as the live policy made it: caches, queues and conversations, and where its policies go by
pins, sessions as pinned to where the live policy sent them. Pins of its own would lead to replicas that never had the
session's requests, and every one of them would count as a miss.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

import structlog

from pointsman.policies.candidates import GONE_SLOT, NO_SLOT, Candidates
from pointsman.policies.decision import Ranked
from pointsman.policies.policy import Context
from pointsman.policies.policy_set import PolicySet
from pointsman.policies.request import RequestFeatures
from pointsman.router.decide.comparison import REFUSED, Comparison, predict, without_replica
from pointsman.router.decide.considered import Considered
from pointsman.router.decide.live_policies import LivePolicies
from pointsman.router.fleet.replicas import ReplicaRegistry
from pointsman.router.fleet.sessions import SessionTable
from pointsman.router.requests.decision_record import ShadowChoice

MAX_ERRORS = 10
"""Exceptions after which a shadow is switched off: a policy that is not written for some requests is not worth more."""

SLOW_S = 0.005
"""Time of a decision above which it counts as slow: every lookup of the edge waits for it, and HAProxy decides alone
after ten times as long. A shadow is switched off when most of its decisions are slow; pauses of the process are few."""

SMOOTHING = 1 / 64
"""Weight of the latest decision in the share of slow ones."""

RANKED = 8
"""Places of the shadow's ranking that are looked at, to tell a tie from a move."""

MAX_SESSIONS = 50_000
"""Pins of a shadow: sessions of half an hour on a busy edge."""

log = structlog.get_logger(__name__)


class ShadowPhase(StrEnum):
    """Whether a shadow decides."""

    RUNNING = "running"
    FAILED = "failed"
    """Switched off: its policies raised too often, or took too long."""


@dataclass(frozen=True, kw_only=True)
class Authorship:
    """Author, time and reason of something that was put."""

    author: str = ""
    why: str = ""
    at_s: float = 0.0
    """Seconds since 1970."""


class Shadow:
    """One policy document that decides beside the live one."""

    def __init__(
        self,
        policies: PolicySet,
        *,
        replicas: ReplicaRegistry,
        sessions: SessionTable,
        stopwatch: Callable[[], float],
        sample: float = 1.0,
        put: Authorship = Authorship(),
    ) -> None:
        """policies: those of the document; the shadow closes them.
        sessions: the fleet's pins; read, never written.
        sample: share of requests that the shadow is asked about, 0 to 1.
        """
        self.policies = policies
        self._live = LivePolicies(policies)
        self.sample = sample
        self.put = put
        self._replicas = replicas
        self._fleet_pins = sessions
        self._stopwatch = stopwatch
        self.rng = random.Random("shadow")
        self._pins = SessionTable(max_sessions=MAX_SESSIONS)
        self.state = ShadowPhase.RUNNING
        self.comparison = Comparison()
        self.since_s = put.at_s
        """From when on requests are compared, in seconds since 1970: another live policy begins anew."""
        self.errors = 0
        self.error = ""
        """Why the shadow was switched off; before that, its last exception."""
        self.asked = 0
        self.spent_s = 0.0
        """Time of all its decisions."""
        self.longest_s = 0.0
        self._slow_share = 0.0

    def __repr__(self) -> str:
        return f"Shadow({self.policies!r}, {self.state}, {self.comparison!r})"

    @property
    def is_running(self) -> bool:
        """Whether the shadow decides."""
        return self.state is ShadowPhase.RUNNING

    def compare(self, features: RequestFeatures, considered: Considered, now_s: float) -> ShadowChoice | None:
        """Decide a request beside the decision that was made; None where the shadow is not asked, or fails."""
        if self.sample < 1.0 and self.rng.random() >= self.sample:
            return None
        self.asked += 1
        started_s = self._stopwatch()
        try:
            choice = self._compare(features, considered, now_s)
        except Exception as error:  # whatever a policy raises, the request has its decision
            self._failed(error)
            return None
        took_s = self._stopwatch() - started_s
        self.spent_s += took_s
        self.longest_s = max(self.longest_s, took_s)
        self._slow_share += SMOOTHING * ((took_s > SLOW_S) - self._slow_share)
        if self._slow_share > 0.5:
            self._end(f"most decisions take more than {1000 * SLOW_S:.0f} ms, the last {1000 * took_s:.1f} ms")
        return choice

    def begin_anew(self, at_s: float) -> None:
        """Compare from here on: another policy is live. `at_s` is in seconds since 1970."""
        self.comparison = Comparison()
        self.since_s = at_s
        self.asked = 0
        self.spent_s = self.longest_s = 0.0

    def _compare(self, features: RequestFeatures, considered: Considered, now_s: float) -> ShadowChoice:
        candidates, decision = considered.candidates, considered.decision
        active = self._live.of(features.model)
        policy = active.policy
        refusal, ranked = None, list[Ranked]()
        seen_pin = candidates.pin
        candidates.pin = NO_SLOT
        if active.pins and features.session:
            candidates.pin = self._pin(features.session, policy.pin_ttl_s, now_s)
            if decision.first:
                self._pins.pin(features.session, decision.first, now_s)
        try:
            context = Context(now_s, self.rng, min(RANKED, len(candidates.slots)), considered.context.waiting)
            refusal = policy.admit(features, candidates, context)
            if refusal is None:
                ranked = policy.rank(features, candidates, context)
        finally:
            candidates.pin = seen_pin
        had = decision.first or REFUSED
        made = predict(candidates, considered.ranked[0].slot) if considered.ranked else None
        made_ms = None if made is None else made.ttft_ms
        if refusal is not None:
            first = without_replica(refusal)
            self.comparison.add(decision.reason, had, first, made=made)
            return ShadowChoice(policy.name, first, refusal.reason, 0.0, None, made_ms)
        best = ranked[0]
        first = candidates.ids[best.slot]
        other = predict(candidates, best.slot)
        tied = first != had and _holds_for_equal(ranked, candidates, had)
        self.comparison.add(decision.reason, had, first, tied=tied, made=made, other=other)
        return ShadowChoice(
            policy.name, first, best.reason, best.score, None if other is None else other.ttft_ms, made_ms
        )

    def _pin(self, session: str, ttl_s: float, now_s: float) -> int:
        """Slot that the session's latest request went to; before the shadow saw one, that of the fleet's pin."""
        home = self._pins.get(session, now_s, ttl_s) or self._fleet_pins.get(session, now_s, ttl_s)
        if home is None:
            return NO_SLOT
        replica = self._replicas.get(home)
        return replica.slot if replica is not None else GONE_SLOT

    def _failed(self, error: Exception) -> None:
        self.errors += 1
        self.error = f"{type(error).__name__}: {error}"
        if self.errors == 1:
            log.exception("shadow policy raised an exception", policy=self.policies.main.name)
        if self.errors >= MAX_ERRORS:
            self._end(f"{self.errors} exceptions, the last: {self.error}")

    def _end(self, why: str) -> None:
        self.state, self.error = ShadowPhase.FAILED, why


def _holds_for_equal(ranked: list[Ranked], candidates: Candidates, replica: str) -> bool:
    """Whether the best of a ranking and a replica have the same score, as far as the ranking tells."""
    best = ranked[0].score
    if any(place.score == best and candidates.ids[place.slot] == replica for place in ranked):
        return True
    # All that were looked at are equal, and there are more: the replica may be one of those.
    return ranked[-1].score == best and len(ranked) < len(candidates.slots)
