"""One router in virtual time: the real pipeline over the real state, told of the world by the fleet.

`Edge` is to the simulator what `router/app.py` is to the service: it wires a `Pipeline` and feeds its state with what
HAProxy, engines and other edges would tell. All edges register the replicas in one order, so a slot is the same replica
everywhere.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from pointsman.contract.events import EngineEvents
from pointsman.contract.registration import Registration
from pointsman.policies.candidates import NO_SLOT, Candidates
from pointsman.policies.decision import Decision
from pointsman.policies.registry import build_policy
from pointsman.policies.request import RequestFeatures
from pointsman.router.decide.features import expected_tokens
from pointsman.router.decide.fleet_state import FleetState
from pointsman.router.decide.hold import Held, HoldTurns
from pointsman.router.decide.pipeline import Pipeline
from pointsman.router.fleet.load import LoadTable
from pointsman.router.fleet.replicas import Health, ReplicaRegistry
from pointsman.router.fleet.sessions import SessionTable
from pointsman.router.kv.state import KVState
from pointsman.router.metrics.requests import DecisionMetrics
from pointsman.simulator.peers.registry import known_policies
from pointsman.simulator.replica import VirtualReplica

SWEEP_S = 0.5
"""How often what is overdue ends, as in the service."""


class Placed(msgspec.Struct, frozen=True, gc=False):
    """What one edge tells the others of a decision."""

    features: RequestFeatures
    slot: int
    replica: str
    prefill: int = NO_SLOT
    """Who computes the prompt, where that is another."""


class Edge:
    """A pipeline, its state, and what it is told."""

    def __init__(self, policy: dict[str, Any], replicas: Sequence[VirtualReplica], *, rng: random.Random) -> None:
        """Raises PolicyConfigError."""
        self.load = LoadTable()
        self.sessions = SessionTable()
        self.kv = KVState()
        self.kv.on_prefilled = self.load.release_leg
        self.registry = ReplicaRegistry(initial_health=Health.UP, on_added=self._slot_added)
        for replica in replicas:
            registration = Registration(url=f"http://{replica.id}:8000", role=replica.role)
            self.registry.put(replica.id, registration, ("127.0.0.1", 8000), 0.0)
            self.kv.apply(replica.index, replica.snapshot(), 0.0)
        metrics = DecisionMetrics()
        self.pipeline = Pipeline(
            build_policy(policy, known_policies()),
            FleetState(
                replicas=self.registry,
                load=self.load,
                sessions=self.sessions,
                kv=self.kv,
            ),
            metrics=metrics,
            rng=rng,
        )
        self._turns = HoldTurns(self.pipeline, self.registry, metrics)
        self._pins = self.pipeline.policy.pin_ttl_s > 0
        self._swept_s = 0.0

    def __repr__(self) -> str:
        return f"Edge({self.pipeline.policy!r}, {self.load!r})"

    def _slot_added(self, slot: int) -> None:
        self.load.add_slot(slot)
        self.kv.add_slot(slot, self.registry.ids[slot])

    def decide(self, features: RequestFeatures, now_s: float) -> Decision:
        """One lookup."""
        self._sweep(now_s)
        return self.pipeline.decide(features, now_s)

    def hold(self, features: RequestFeatures, now_s: float) -> Held | Decision:
        """HAProxy holds a request, and asks for its turn."""
        return self._turns.ask(features, now_s)

    def step_held(self, now_s: float) -> Iterator[tuple[Held, Decision]]:
        """A look at those who wait."""
        self._sweep(now_s)
        return self._turns.step(now_s)

    @property
    def holds(self) -> bool:
        """Whether anybody waits."""
        return bool(self.pipeline.holds)

    def _sweep(self, now_s: float) -> None:
        if now_s - self._swept_s >= SWEEP_S:
            self._swept_s = now_s
            self.kv.expire(now_s)

    def decided_elsewhere(self, placed: Placed, now_s: float) -> None:
        """Another edge sent a request to a replica: its load, its keys and its conversation count here too."""
        features, slot = placed.features, placed.slot
        self.load.reserve(features.request_id, slot, expected_tokens(features), now_s)
        if features.session and self._pins:
            self.sessions.pin(features.session, placed.replica, now_s)
        prompt = self.kv.read(features, now_s)
        members = self.registry.membership(features.model)
        candidates = Candidates(
            membership=members.token,
            slots=members.slots,
            ids=self.registry.ids,
            in_flight=self.load.in_flight,
            in_flight_tokens=self.load.in_flight_tokens,
        )
        self.kv.placed(features, prompt, slot, candidates, now_s, prefill=placed.prefill)
        if placed.prefill != NO_SLOT:
            uncached = max(1, prompt.tokens - prompt.resident.tokens(placed.prefill))
            self.load.reserve_leg(features.request_id, placed.prefill, uncached, now_s)

    def ended(self, request_id: str, now_s: float) -> None:
        """HAProxy's line, this edge's own or another's: a request is over."""
        self.load.release(request_id)
        self.kv.ended(request_id, now_s)

    def heard(self, slot: int, events: EngineEvents, now_s: float) -> None:
        """A message of an engine."""
        wants_snapshot = self.kv.apply(slot, events, now_s)
        assert not wants_snapshot, "messages come in order and none is lost"

    def down(self, replica: str) -> None:
        """HAProxy's check failed."""
        self.registry.set_health(replica, Health.DOWN)

    def back(self, replica: str) -> None:
        """HAProxy's check passed."""
        self.registry.set_health(replica, Health.UP)
