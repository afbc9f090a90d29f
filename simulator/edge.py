"""One router in virtual time: the service's own `Core`, told of the world by the fleet.

`Edge` is to the simulator what `router/app.py` is to the service: it feeds a `Core` with what HAProxy, engines and
other edges would tell. All edges register the replicas in one order, so a slot is the same replica everywhere.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from pointsman.contract.events import EngineEvents
from pointsman.contract.registration import Registration
from pointsman.policies.candidates import NO_SLOT, Candidates
from pointsman.policies.decision import Decision
from pointsman.policies.request import RequestFeatures
from pointsman.router.core import SWEEP_INTERVAL_S, Core, CoreConfig
from pointsman.router.decide.features import expected_tokens
from pointsman.router.fleet.replica import Health
from pointsman.router.outliers.failure_accrual import OutlierConfig
from pointsman.router.requests.hold_queue import Held
from pointsman.router.tenancy.allowance import Use
from pointsman.simulator.peers.registry import known_policies
from pointsman.simulator.replica import VirtualReplica
from pointsman.simulator.tenants import NO_TENANTS, TenantSet

CONFIG = CoreConfig(outliers=OutlierConfig(enabled=False))
"""Virtual replicas answer or are away: there is nothing for outlier detection to see."""


class Placed(msgspec.Struct, frozen=True, gc=False):
    """Record of a decision for the other edges."""

    features: RequestFeatures
    slot: int
    replica: str
    prefill: int = NO_SLOT
    """Replica that computes the prompt, where it is not the one that decodes."""


class Edge:
    """A core, and what it is told."""

    def __init__(
        self,
        policy: dict[str, Any],
        replicas: Sequence[VirtualReplica],
        *,
        rng: random.Random,
        tenants: TenantSet = NO_TENANTS,
    ) -> None:
        """Raises PolicyConfigError."""
        self._now_s = 0.0
        # Days and months of budgets begin with the trace.
        self.core = Core(policy, rng=rng, config=CONFIG, policies=known_policies(), wall=lambda: self._now_s)
        tenants.write(self.core.book)
        self.load = self.core.load
        self.kv = self.core.kv
        for replica in replicas:
            registration = Registration(url=f"http://{replica.id}:8000", role=replica.role, pool=replica.pool)
            self.core.replicas.put(replica.id, registration, ("127.0.0.1", 8000), 0.0)
            self.heard(replica.index, replica.snapshot(), 0.0)
        self._pins = self.core.pipeline.policy.pin_ttl_s > 0
        self._swept_s = 0.0

    def __repr__(self) -> str:
        return f"Edge({self.core!r})"

    def decide(self, features: RequestFeatures, now_s: float) -> Decision:
        """One lookup."""
        self._sweep(now_s)
        return self.core.decide(features, now_s)

    def hold(self, features: RequestFeatures, now_s: float) -> Held | Decision:
        """HAProxy holds a request, and asks for its turn."""
        return self.core.hold(features, now_s)

    def step_held(self, now_s: float) -> Iterator[tuple[Held, Decision]]:
        """A look at those who wait."""
        self._sweep(now_s)
        return self.core.step_held(now_s)

    @property
    def holds(self) -> bool:
        """Whether anybody waits."""
        return bool(self.core.holds)

    def _sweep(self, now_s: float) -> None:
        self._now_s = now_s
        if now_s - self._swept_s >= SWEEP_INTERVAL_S:
            self._swept_s = now_s
            self.core.sweep(now_s)

    def decided_elsewhere(self, placed: Placed, now_s: float) -> None:
        """Another edge sent a request to a replica: its load, its keys and its conversation count here too."""
        features, slot = placed.features, placed.slot
        self.core.requests.reserve(features.request_id, slot, expected_tokens(features), now_s)
        if features.session and self._pins:
            self.core.sessions.pin(features.session, placed.replica, now_s)
        prompt = self.kv.read(features, now_s)
        members = self.core.replicas.memberships.of(features.model)
        candidates = Candidates(
            membership=members.token,
            slots=members.slots,
            ids=self.core.replicas.ids,
            in_flight=self.load.in_flight,
            in_flight_tokens=self.load.in_flight_tokens,
        )
        self.core.requests.place(features, prompt, slot, candidates, now_s, prefill=placed.prefill)
        if placed.prefill != NO_SLOT:
            uncached = max(1, prompt.tokens - prompt.resident.tokens(placed.prefill))
            self.core.requests.reserve_prefill(features.request_id, placed.prefill, uncached)

    def ended(self, request_id: str, now_s: float, *, served: bool = True) -> None:
        """HAProxy's line, this edge's own or another's: a request is over.

        served: whether a replica had it to its end.
        """
        self.core.requests.end(request_id, now_s)
        if self.core.limits.active:
            self.core.limits.ended(request_id, now_s, served=served)

    def hear_uses(self, edge: str, uses: Mapping[str, Use], now_s: float, *, complete: bool = False) -> None:
        """Another edge told what it has used of limits; `complete` when the two meet."""
        self.core.limits.hear(edge, uses, now_s, complete=complete)

    def heard(self, slot: int, events: EngineEvents, now_s: float) -> None:
        """A message of an engine."""
        answer = self.core.engine_events(self.core.replicas.ids[slot], events, now_s)
        assert answer is not None and not answer.resync, "messages come in order and none is lost"

    def down(self, replica: str, now_s: float) -> None:
        """HAProxy's check failed."""
        self.core.replicas.set_health(replica, Health.DOWN, now_s)

    def back(self, replica: str, now_s: float) -> None:
        """HAProxy's check passed."""
        self.core.replicas.set_health(replica, Health.UP, now_s)
