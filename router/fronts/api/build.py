"""Construction of the admin front, with one front for each noun of its API."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pointsman.router.core import Core
from pointsman.router.edges.sharing import Sharing
from pointsman.router.fleet.fleets import FleetTable
from pointsman.router.fronts.api.admin import AdminFront
from pointsman.router.fronts.api.aliases import AliasFront
from pointsman.router.fronts.api.audit import Audit
from pointsman.router.fronts.api.config import ConfigFront
from pointsman.router.fronts.api.decisions import DecisionsFront
from pointsman.router.fronts.api.documents import Settled
from pointsman.router.fronts.api.edges import EdgesFront
from pointsman.router.fronts.api.events import EventsFront
from pointsman.router.fronts.api.explain import ExplainFront
from pointsman.router.fronts.api.guard import Guard
from pointsman.router.fronts.api.health import HealthFront
from pointsman.router.fronts.api.keys import KeysFront
from pointsman.router.fronts.api.live import LiveFront
from pointsman.router.fronts.api.policy import PolicyFront
from pointsman.router.fronts.api.policy_revisions import RevisionsFront
from pointsman.router.fronts.api.policy_trials import TrialsFront
from pointsman.router.fronts.api.pools import PoolFront
from pointsman.router.fronts.api.replica_views import ReplicaViews
from pointsman.router.fronts.api.replicas import ReplicaFront
from pointsman.router.fronts.api.served_models import ServedModelsFront
from pointsman.router.fronts.api.sessions import SessionFront
from pointsman.router.fronts.api.signals import SignalsFront
from pointsman.router.fronts.api.status import StatusFront
from pointsman.router.fronts.api.stream import Streams
from pointsman.router.fronts.api.tenants import TenantsFront
from pointsman.router.fronts.api.usage import UsageFront
from pointsman.router.fronts.deciding import Decider
from pointsman.router.journal.events import EventLog
from pointsman.router.metrics.exposition import Collect
from pointsman.router.process.clock import Clock, perf_counter, wall
from pointsman.router.process.readiness import Readiness
from pointsman.router.settings import AdminSettings, Settings
from pointsman.router.watch.decision_feed import DecisionFeed
from pointsman.router.watch.endpoints import EndpointResolver
from pointsman.router.watch.live_figures import LiveFigures
from pointsman.router.watch.usage_keeper import UsageKeeper


@dataclass(frozen=True, slots=True)
class AdminParts:
    """Parts of a router that the fronts of its admin API read and change."""

    core: Core
    decider: Decider
    sharing: Sharing | None
    endpoints: EndpointResolver
    fleets: FleetTable
    readiness: Readiness
    metrics: Collect
    decisions: DecisionFeed | None
    live: LiveFigures
    usage: UsageKeeper
    events: EventLog
    streams: Streams
    settled: Settled
    clock: Clock
    settings: Settings
    sources: Mapping[str, str]
    """Where values of the settings were given, by dotted key."""


def build_admin(guard: Guard, parts: AdminParts, settings: AdminSettings) -> AdminFront:
    """Build the front of the admin address."""
    core, clock, max_body_bytes = parts.core, parts.clock, settings.max_body_bytes
    edges = EdgesFront(core, parts.sharing, clock=clock)
    views = ReplicaViews(core, clock, health_path=parts.settings.edge.server_options.health_path)
    policy = PolicyFront(core, edges, max_body_bytes=max_body_bytes)
    return AdminFront(
        guard,
        Audit(parts.events),
        ReplicaFront(core, parts.endpoints, views, clock=clock, max_body_bytes=max_body_bytes),
        PoolFront(parts.fleets, endpoints=parts.endpoints, clock=clock, max_body_bytes=max_body_bytes),
        policy,
        RevisionsFront(core, policy, max_body_bytes=max_body_bytes),
        TrialsFront(core, parts.decisions, clock=clock, stopwatch=perf_counter, max_body_bytes=max_body_bytes),
        AliasFront(core, parts.settled, max_body_bytes=max_body_bytes),
        DecisionsFront(parts.decisions, parts.streams),
        ExplainFront(core, parts.decider, parts.decisions, clock=clock),
        LiveFront(parts.live, parts.streams),
        UsageFront(parts.usage, wall=wall),
        edges,
        EventsFront(parts.events, parts.streams),
        HealthFront(parts.readiness, parts.metrics),
        ConfigFront(parts.settings, parts.sources, core.policy),
        SessionFront(core, views, clock=clock, max_body_bytes=max_body_bytes),
        SignalsFront(core),
        StatusFront(
            core,
            parts.sharing,
            views,
            name=parts.settings.shared.edge,
            readiness=parts.readiness,
            clock=clock,
            has_haproxy=bool(parts.settings.edge.admin_socket),
        ),
        ServedModelsFront(core),
        KeysFront(core, parts.settled, wall=wall, max_body_bytes=max_body_bytes),
        TenantsFront(core, parts.settled, wall=wall, max_body_bytes=max_body_bytes),
    )
