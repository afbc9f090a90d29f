"""Construction of the admin front, with one front for each noun of its API."""

from __future__ import annotations

from dataclasses import dataclass

from prometheus_client import CollectorRegistry

from pointsman.router.core import Core
from pointsman.router.edges.sharing import Sharing
from pointsman.router.fleet.fleets import FleetTable
from pointsman.router.fronts.api.admin import AdminFront
from pointsman.router.fronts.api.audit import Audit
from pointsman.router.fronts.api.decisions import DecisionsFront
from pointsman.router.fronts.api.edges import EdgesFront
from pointsman.router.fronts.api.events import EventsFront
from pointsman.router.fronts.api.guard import Guard
from pointsman.router.fronts.api.health import HealthFront
from pointsman.router.fronts.api.policy import PolicyFront
from pointsman.router.fronts.api.policy_revisions import RevisionsFront
from pointsman.router.fronts.api.policy_trials import TrialsFront
from pointsman.router.fronts.api.pools import PoolFront
from pointsman.router.fronts.api.replicas import ReplicaFront
from pointsman.router.fronts.api.stream import Streams
from pointsman.router.journal.events import EventLog
from pointsman.router.process.clock import Clock, perf_counter
from pointsman.router.process.readiness import Readiness
from pointsman.router.settings import AdminSettings
from pointsman.router.watch.decision_feed import DecisionFeed
from pointsman.router.watch.endpoints import EndpointResolver


@dataclass(frozen=True, slots=True)
class AdminParts:
    """What the fronts of the admin API read and change."""

    core: Core
    sharing: Sharing | None
    endpoints: EndpointResolver
    readiness: Readiness
    metrics: CollectorRegistry
    decisions: DecisionFeed | None
    events: EventLog
    streams: Streams
    clock: Clock


def build_admin(guard: Guard, parts: AdminParts, settings: AdminSettings) -> AdminFront:
    """Build the front of the admin address."""
    core, clock, max_body_bytes = parts.core, parts.clock, settings.max_body_bytes
    edges = EdgesFront(core, parts.sharing, clock=clock)
    policy = PolicyFront(core, edges, clock=clock, max_body_bytes=max_body_bytes)
    return AdminFront(
        guard,
        Audit(parts.events),
        ReplicaFront(core, parts.endpoints, clock=clock, max_body_bytes=max_body_bytes),
        PoolFront(FleetTable(), endpoints=parts.endpoints, clock=clock, max_body_bytes=max_body_bytes),
        policy,
        RevisionsFront(core, policy, max_body_bytes=max_body_bytes),
        TrialsFront(core, parts.decisions, clock=clock, stopwatch=perf_counter, max_body_bytes=max_body_bytes),
        DecisionsFront(parts.decisions, parts.streams),
        edges,
        EventsFront(parts.events, parts.streams),
        HealthFront(parts.readiness, parts.metrics),
    )
