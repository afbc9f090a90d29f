"""One straight, synchronous line: features -> gather -> rank -> reserve -> decision.

`Pipeline` owns the active policy and writes what a decision changes: a reservation and, where the policy pins, the
session's home. It awaits nothing, so no other task runs between reading a load and reserving it.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Mapping
from typing import Any

from policies.base import Context, Needs, Policy
from policies.registry import build_policy, installed_policies
from policies.types import GONE_SLOT, NO_SLOT, Candidates, Decision, Ranked, Reason, RequestFeatures
from router.features import expected_tokens
from router.metrics import DecisionMetrics
from router.state.load import LoadTable
from router.state.replicas import Membership, ReplicaRegistry
from router.state.sessions import SessionTable

RANKED = 2
"""HAProxy takes a first and a second choice; a third failure in a row is redispatched by its own balancing."""


class Pipeline:
    """Decides where requests go."""

    def __init__(
        self,
        *,
        policy: Policy,
        replicas: ReplicaRegistry,
        load: LoadTable,
        sessions: SessionTable,
        metrics: DecisionMetrics,
        rng: random.Random,
        override_header: bool = False,
    ) -> None:
        self._policy = policy
        self._replicas = replicas
        self._load = load
        self._sessions = sessions
        self._metrics = metrics
        self._rng = rng
        self._override_header = override_header
        self._overrides: dict[str, Policy] = {}

    @property
    def policy(self) -> Policy:
        return self._policy

    def swap_policy(self, policy: Policy) -> None:
        """Puts a built policy live, then closes the one it replaces."""
        old, self._policy = self._policy, policy
        old.close()

    def decide(self, features: RequestFeatures, now_s: float) -> Decision:
        """Chooses, reserves and pins. No opinion (`first` empty) when nothing is eligible."""
        policy = self._policy if not features.policy else self._policy_for(features)
        members = self._replicas.membership(features.model)
        if not len(members.slots):
            self._metrics.decided(policy.name, Reason.NO_CANDIDATES)
            return Decision(Reason.NO_CANDIDATES)
        candidates = self._gather(policy, features, members, now_s)
        ranked = policy.rank(features, candidates, Context(now_s, self._rng, RANKED))
        best = ranked[0]
        ids = self._replicas.ids
        first = ids[best.slot]
        if features.request_id:  # without one (a person asking by hand) nothing would ever end it
            self._load.reserve(features.request_id, best.slot, expected_tokens(features), now_s)
        if features.session and policy.needs & Needs.PIN:
            self._sessions.pin(features.session, first, now_s)
        self._metrics.decided(policy.name, best.reason)
        return Decision(best.reason, first, ids[ranked[1].slot] if len(ranked) > 1 else "")

    def explain(self, features: RequestFeatures, now_s: float) -> dict[str, Any]:
        """What `decide` would answer and the signals it would see; reserves, pins and counts nothing."""
        policy = self._policy if not features.policy else self._policy_for(features)
        members = self._replicas.membership(features.model)
        excluded = {
            replica.id: replica.state if not replica.eligible else "other-model"
            for replica in self._replicas
            if replica.slot not in members.slots
        }
        explained: dict[str, Any] = {"policy": policy.describe(), "excluded": excluded}
        if not len(members.slots):
            return explained | {"decision": Decision(Reason.NO_CANDIDATES), "candidates": []}
        candidates = self._gather(policy, features, members, now_s)
        # A policy may keep a turn and draws dice: ask a copy, so that explaining moves neither.
        rng = random.Random()
        rng.setstate(self._rng.getstate())
        ranked = copy.deepcopy(policy).rank(features, candidates, Context(now_s, rng, len(candidates)))
        ids = self._replicas.ids
        places = {place.slot: (at, place) for at, place in enumerate(ranked, 1)}
        return explained | {
            "decision": Decision(ranked[0].reason, ids[ranked[0].slot], ids[ranked[1].slot] if len(ranked) > 1 else ""),
            "candidates": [
                {
                    "replica": row.replica,
                    "in_flight": row.in_flight,
                    "in_flight_tokens": row.in_flight_tokens,
                    "pinned": row.slot == candidates.pin,
                    **_place(places.get(row.slot)),
                }
                for row in candidates
            ],
        }

    def _gather(self, policy: Policy, features: RequestFeatures, members: Membership, now_s: float) -> Candidates:
        """The eligible replicas with exactly the signals the policy declared."""
        pin = NO_SLOT
        if features.session and policy.needs & Needs.PIN:
            home = self._sessions.get(features.session, now_s, policy.pin_ttl_s)
            if home is not None:
                replica = self._replicas.get(home)
                # A pin to a replica that left is still a pin: the policy tells "moved" from "new" by it.
                pin = replica.slot if replica is not None else GONE_SLOT
        return Candidates(
            membership=members.token,
            slots=members.slots,
            ids=self._replicas.ids,
            in_flight=self._load.in_flight,
            in_flight_tokens=self._load.in_flight_tokens,
            pin=pin,
        )

    def _policy_for(self, features: RequestFeatures) -> Policy:
        """The policy the override header names, with its defaults; the active one for any other name."""
        if not self._override_header:
            return self._policy
        policy = self._overrides.get(features.policy)
        if policy is None:
            if features.policy not in installed_policies():
                return self._policy
            policy = self._overrides[features.policy] = build_policy({"policy": features.policy})
        return policy

    def describe(self) -> Mapping[str, object]:
        return self._policy.describe()


def _place(place: tuple[int, Ranked] | None) -> dict[str, Any]:
    if place is None:
        return {"rank": None, "score": None, "reason": None}
    at, ranked = place
    return {"rank": at, "score": ranked.score, "reason": ranked.reason}
