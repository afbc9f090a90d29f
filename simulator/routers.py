"""All routers of a fleet: what clients ask, and reports that reach each router with the delays of the settings."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from pointsman.contract.events import EngineEvents
from pointsman.policies.decision import Decision
from pointsman.policies.request import RequestFeatures
from pointsman.router.decide.hold import STEP_S
from pointsman.router.requests.hold_queue import Held
from pointsman.simulator.clock import Action, VirtualClock
from pointsman.simulator.edge import Edge, Placed
from pointsman.simulator.replica import VirtualReplica
from pointsman.simulator.settings import FleetSettings
from pointsman.simulator.tenants import NO_TENANTS, TenantSet

Answered = Callable[[Held, Decision, float], None]
"""Receives the decision on a held request, at a time in seconds."""


class VirtualRouters:
    """The routers, by number. A held request waits in its router's own queue, which is looked at every `STEP_S`."""

    def __init__(
        self,
        policy: dict[str, Any],
        replicas: Sequence[VirtualReplica],
        settings: FleetSettings,
        clock: VirtualClock,
        answered: Answered,
        *,
        seed: int,
        tenants: TenantSet = NO_TENANTS,
    ) -> None:
        """Raises PolicyConfigError."""
        dice = [random.Random(f"{seed} router {number}") for number in range(settings.routers)]
        self.edges = [Edge(policy, replicas, rng=rng, tenants=tenants) for rng in dice]
        self._settings = settings
        self._clock = clock
        self._answered = answered
        self._looking: set[int] = set()
        """Routers that will look at those they hold."""
        self._telling: set[int] = set()
        """Routers that will tell the others what they used of limits."""
        self._limited = self.edges[0].core.limits.active
        if self._limited and settings.sync_s is not None:
            self._meet()

    def _meet(self) -> None:
        for number, edge in enumerate(self.edges):
            for other, _ in enumerate(self.edges):
                if other != number:
                    edge.hear_uses(str(other), {}, 0.0, complete=True)

    def class_of(self, tenant: str, asked: str) -> int:
        """The priority class of a tenant's request that names a class, or none."""
        return self.edges[0].core.tenants.class_of(tenant, asked)

    def ask(self, router: int, features: RequestFeatures, now_s: float) -> Decision | Held:
        """Look a request up; one that is told to wait asks for its turn, and is answered later where it is held."""
        edge = self.edges[router]
        decision = edge.decide(features, now_s)
        self._tell_uses(router, now_s)
        if not decision.hold_ms:
            return decision
        asked = edge.hold(features, now_s)
        if isinstance(asked, Held):
            self._look_at_held(router, now_s)
        return asked

    def _look_at_held(self, router: int, now_s: float) -> None:
        if router not in self._looking and self.edges[router].holds:
            self._looking.add(router)
            self._clock.at(now_s + STEP_S, partial(self._step_held, router))

    def _step_held(self, router: int, now_s: float) -> None:
        self._looking.discard(router)
        for held, decision in self.edges[router].step_held(now_s):
            self._answered(held, decision, now_s)
        self._look_at_held(router, now_s)

    def placed(self, router: int, placed: Placed, now_s: float) -> None:
        """Report a router's decision to the others."""
        self._tell_others(router, now_s, lambda other: partial(other.decided_elsewhere, placed))

    def ended(self, router: int, request_id: str, now_s: float, *, served: bool = True) -> None:
        """HAProxy's end-of-request line reaches its router within a millisecond, and through it the others."""
        self.edges[router].ended(request_id, now_s, served=served)
        self._tell_others(router, now_s, lambda other: partial(other.ended, request_id))
        self._tell_uses(router, now_s)

    def refused(self, router: int, request_id: str, now_s: float) -> None:
        """HAProxy's line of a request that was refused, which the other routers never heard of."""
        self.edges[router].ended(request_id, now_s, served=False)
        self._tell_uses(router, now_s)

    def _tell_uses(self, router: int, now_s: float) -> None:
        """Tell the other routers, within their delay, what was used here of limits."""
        sync_s = self._settings.sync_s
        if self._limited and sync_s is not None and len(self.edges) > 1 and router not in self._telling:
            self._telling.add(router)
            self._clock.at(now_s + sync_s, partial(self._uses_arrive, router))

    def _uses_arrive(self, router: int, now_s: float) -> None:
        self._telling.discard(router)
        uses = dict(self.edges[router].core.limits.uses(complete=False))
        for number, edge in enumerate(self.edges):
            if uses and number != router:
                edge.hear_uses(str(router), uses, now_s)

    def _tell_others(self, teller: int, now_s: float, notice: Callable[[Edge], Action]) -> None:
        sync_s = self._settings.sync_s
        if sync_s is None:
            return
        for number, edge in enumerate(self.edges):
            if number != teller:
                self._clock.at(now_s + sync_s, notice(edge))

    def report(self, replica: VirtualReplica, message: EngineEvents, at_s: float) -> None:
        """An engine's message reaches every router after the event lag, unless the engine died meanwhile."""
        life = replica.lives

        def arrive(now_s: float) -> None:
            if replica.lives == life:
                for number, edge in enumerate(self.edges):
                    edge.heard(replica.index, message, now_s)
                    if message.usage:
                        self._tell_uses(number, now_s)

        if self._settings.event_lag_s:
            self._clock.at(at_s + self._settings.event_lag_s, arrive)
        else:
            arrive(at_s)

    def down(self, replica: VirtualReplica, now_s: float) -> None:
        """HAProxy's check of a replica failed."""
        for edge in self.edges:
            edge.down(replica.id, now_s)

    def back(self, replica: VirtualReplica, now_s: float) -> None:
        """HAProxy's check of a replica passed, whose engine reports that it begins with nothing."""
        for edge in self.edges:
            edge.back(replica.id, now_s)
            edge.heard(replica.index, replica.snapshot(), now_s)
