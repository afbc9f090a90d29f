"""The router without sockets: everything a router knows, wired once, behind plain synchronous methods.

`Core` owns the registry of replicas, their load, KV, sessions, adapters, outliers and model cards, the requests in
flight, the pipeline that decides over them and the policy that is live. The service drives it with what sockets bring,
the simulator and the tests with a virtual time: each method takes the time of its call, in seconds of one monotonic
clock.

What always holds: a replica's slot has its columns in every table from `put` to `remove`, and `on_slot_added` and
`on_slot_removed` are called while it has them. Core awaits nothing, opens nothing, logs no request, and does not know
whether other edges share its state: who replicates it connects to its hooks.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec.structs import replace

from pointsman.contract.events import EngineEvents, EventsAnswer
from pointsman.policies.candidates import NO_SLOT
from pointsman.policies.decision import Decision
from pointsman.policies.policy_set import PolicySet
from pointsman.policies.registry import PolicyTable, build_policy_set
from pointsman.policies.request import RequestFeatures
from pointsman.router.counts.requests import DecisionMetrics, EdgeHealth, RequestMetrics
from pointsman.router.decide.fleet_state import DEFAULT_SETTINGS, DecisionSettings, FleetState
from pointsman.router.decide.hold import HoldTurns
from pointsman.router.decide.pipeline import Pipeline
from pointsman.router.decide.policy_control import PolicyControl
from pointsman.router.decide.trials import TrialNews, Trials
from pointsman.router.decide.version_meter import VersionMeter
from pointsman.router.fleet.adapters import AdapterTable
from pointsman.router.fleet.alias_table import AliasTable
from pointsman.router.fleet.load import LoadTable
from pointsman.router.fleet.models import ModelCatalog
from pointsman.router.fleet.replica import Health, Replica
from pointsman.router.fleet.replicas import ReplicaRegistry
from pointsman.router.fleet.sessions import DEFAULT_TTL_S, SessionTable
from pointsman.router.fleet.tenant_pools import TenantPools
from pointsman.router.kv.conversation import Name
from pointsman.router.kv.state import KVState
from pointsman.router.outliers.failure_accrual import OutlierConfig
from pointsman.router.outliers.table import OutlierTable
from pointsman.router.requests.decision_log import build_log
from pointsman.router.requests.end_of_request import EndOfRequest, Meters
from pointsman.router.requests.hold_queue import Held, HoldQueue
from pointsman.router.requests.model_meter import ModelMeter
from pointsman.router.requests.table import RequestTable
from pointsman.router.requests.usage_meter import UsageMeter
from pointsman.router.settings import DecisionLogSettings, LimitSettings
from pointsman.router.tenancy.build import build_tenancy

SWEEP_INTERVAL_S = 0.5
"""Between two calls of `sweep`: how late a lease, a reservation or a pin may end."""

STALL_S = 2.0
"""Nothing was swept for so long: the process was stopped, or its machine was."""

TIDY_KEYS = 4096
"""Keys of the prefix index looked at in one sweep, which takes 2 ms: a million within two minutes of a restart."""

EVENTS_INTERVAL_MS = 20
"""Batching interval of engines' messages while the live policy uses KV signals, in milliseconds."""

IDLE_EVENTS_INTERVAL_MS = 200
"""Batching interval of engines' messages while no policy uses KV signals, in milliseconds: an engine that is killed
loses the reports of usage of that time."""

MAX_EVENTS_PER_S = 1000
"""Messages of all engines together, at most half a core: in a larger fleet each gathers for longer."""


class CoreConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Configuration of a `Core`, besides its policy and its random numbers."""

    limits: LimitSettings = LimitSettings()
    outliers: OutlierConfig = OutlierConfig()
    decisions: DecisionSettings = DEFAULT_SETTINGS
    initial_health: Health = Health.UP
    """Of a replica nobody has checked yet."""
    lists_follow: bool = False
    """Whether somebody reads the replicas' own lists of models."""
    decision_log: DecisionLogSettings = DecisionLogSettings()
    created: int = 0
    """Seconds since 1970, for cards of models that no replica gave."""


@dataclass(frozen=True, slots=True)
class Swept:
    """Result of one sweep: replicas and requests that ended."""

    leases: list[str]
    """Replicas removed because their lease ended."""
    reservations: int
    """Reservations dropped because no end of their request arrived."""


class Core:
    """One router's state and decisions."""

    def __init__(
        self,
        policy: Mapping[str, Any],
        *,
        rng: random.Random,
        config: CoreConfig = CoreConfig(),  # noqa: B008 -- frozen
        policies: PolicyTable | None = None,
        wall: Callable[[], float] = lambda: 0.0,
        stopwatch: Callable[[], float] = lambda: 0.0,
    ) -> None:
        """Raises PolicyError for a document that describes no policy.

        policy: the document of the policy that decides first.
        rng: the dice of decisions.
        policies: what may be named in `policy`; None for all that are installed.
        wall: seconds since 1970.
        stopwatch: seconds, for what trials of policies cost.
        """
        limits = config.limits
        self.on_slot_added: list[Callable[[int], None]] = []
        """Called with the slot of a replica that was registered, once every table has it."""
        self.on_slot_removed: list[Callable[[int], None]] = []
        """Called with the slot of a replica that leaves, while every table still has it."""
        self.on_registry_changed: list[Callable[[], None]] = []
        self.on_policy_changed: list[Callable[[], None]] = []
        self.on_trial_changed: list[Callable[[TrialNews], None]] = []
        """Called when a policy begins to be tried beside the live one, or ends."""
        self.on_session_forgotten: list[Callable[[Name, float], None]] = []
        """Called with the name of a session that somebody had forgotten here, and when."""
        self.edge = ""
        """Id of this edge, where it shares state with others."""
        self.other_edges: Callable[[str], dict[str, str]] = lambda address: {}
        """Admin URLs, by edge id, that an engine at `HOST:PORT` is to report to besides this edge."""
        self.book, self.tenants, self.keys, self.limits, ledger = build_tenancy(wall)
        self.aliases = AliasTable(self.book, max_sessions=limits.max_sessions)
        self.load, self.adapters = LoadTable(reservation_ttl_s=limits.reservation_ttl_s), AdapterTable()
        self.sessions = SessionTable(max_sessions=limits.max_sessions)
        self.kv = _build_kv(limits)
        self.holds = _build_holds(self, limits)
        self.decisions = build_log(config.decision_log.max_records, config.decision_log.max_mb << 20)
        self.requests = _build_requests(self, limits)
        self.replicas = self._build_registry(config)
        self.pools = TenantPools(self.tenants, self.replicas)
        self.meter = ModelMeter(self.requests, self.kv, self.replicas)
        self.usage = UsageMeter(ledger, self.requests, self.kv, self.replicas, wall, self.limits)
        self.outliers = OutlierTable(config.outliers, self.replicas, prefill_ms=self.kv.times.typical_ms)
        self.catalog = ModelCatalog(self.replicas, created=config.created, aliases=self.aliases.stood_for)
        self.decision_metrics, self.request_metrics = DecisionMetrics(), RequestMetrics()
        self.edge_health = EdgeHealth()
        self.pipeline = self._build_pipeline(build_policy_set(policy, policies), rng, config.decisions)
        self.turns = HoldTurns(self.pipeline, self.decision_metrics)
        self.policy = self._build_policy_control(policy, wall)
        self.end_of_request = _build_end_of_request(self)
        self.trials = self._build_trials(config.decisions, stopwatch, wall)
        self.versions = _build_version_meter(self)
        self.feed_port = 0
        """TCP port where engines may keep a connection for their events; 0 where there is none."""
        self._swept_s: float | None = None

    def _build_registry(self, config: CoreConfig) -> ReplicaRegistry:
        return ReplicaRegistry(
            initial_health=config.initial_health,
            max_replicas=config.limits.max_replicas,
            lists_follow=config.lists_follow,
            on_added=self._slot_added,
            on_removed=self._slot_removed,
            on_changed=self._registry_changed,
        )

    def _fleet_state(self) -> FleetState:
        return FleetState(
            replicas=self.replicas,
            requests=self.requests,
            load=self.load,
            sessions=self.sessions,
            kv=self.kv,
            adapters=self.adapters,
            aliases=self.aliases,
            outliers=self.outliers,
            decisions=self.decisions,
            context_tokens=self.catalog.context_tokens,
            limits=self.limits,
            pools=self.pools,
        )

    def _build_pipeline(self, policies: PolicySet, rng: random.Random, settings: DecisionSettings) -> Pipeline:
        state, metrics = self._fleet_state(), self.decision_metrics
        return Pipeline(policies, state, metrics=metrics, rng=rng, settings=settings, holds=self.holds)

    def _build_trials(
        self, settings: DecisionSettings, stopwatch: Callable[[], float], wall: Callable[[], float]
    ) -> Trials:
        return Trials(
            self.pipeline,
            self._fleet_state(),
            self.policy,
            self.end_of_request,
            pair=settings.pair,
            stopwatch=stopwatch,
            wall=wall,
            on_changed=self._trial_changed,
        )

    def _build_policy_control(self, configured: Mapping[str, Any], wall: Callable[[], float]) -> PolicyControl:
        return PolicyControl(
            self.pipeline,
            self.decision_metrics,
            configured,
            on_changed=self._policy_changed,
            window_bytes=lambda: self.edge_health.body_window_bytes,
            serves=self.replicas.memberships.serves,
            wall=wall,
        )

    def __repr__(self) -> str:
        return f"Core({self.pipeline.policy!r}, {self.load!r})"

    # Requests

    def decide(self, features: RequestFeatures, now_s: float) -> Decision:
        """Chooses replicas for a request and reserves there."""
        return self.pipeline.decide(features, now_s)

    def hold(self, features: RequestFeatures, now_s: float) -> Held | Decision:
        """A place in the queue for a request that was answered with `hold_ms`, or its decision."""
        return self.turns.ask(features, now_s)

    def step_held(self, now_s: float) -> Iterator[tuple[Held, Decision]]:
        """The held requests that wait no longer, with their decisions."""
        return self.turns.step(now_s)

    # Sessions

    @property
    def pin_ttl_s(self) -> float:
        """Seconds after which a pin that nobody used ends."""
        # A policy without pins leaves the table as it is: the one before it may come back.
        pin_ttl_s = self.pipeline.choice.pin_ttl_s
        return DEFAULT_TTL_S if pin_ttl_s is None else pin_ttl_s

    def forget_session(self, name: Name, now_s: float) -> bool:
        """Drops the pin and the conversation of a session, here and on other edges; False where there is neither."""
        known = self.drop_session(name, now_s)
        if known:
            for forgotten in self.on_session_forgotten:
                forgotten(name, now_s)
        return known

    def drop_session(self, name: Name, before_s: float) -> bool:
        """Drops what is known here of a session that was not in use after `before_s`; False where there is nothing."""
        if isinstance(name, str):
            self.aliases.forget(name, before_s)
        pin = self.sessions.state(name) if isinstance(name, str) else None
        dropped = pin is not None and pin[2] <= before_s and self.sessions.forget(str(name))
        known = self.kv.conversations.by_name.get(name)
        if known is None or known.seen_s > before_s:
            return dropped
        # A state without a home, of whoever wrote the present one, says that it is dropped.
        self.kv.conversations.learn(replace(known, home="", before=None, pending=None), NO_SLOT)
        return True

    # Engines

    def engine_events(self, replica_id: str, events: EngineEvents, now_s: float) -> EventsAnswer | None:
        """Applies an engine's message and renews its replica's lease; None when no such replica is registered."""
        replica = self.replicas.get(replica_id)
        if replica is None:
            return None
        resync = self.kv.apply(replica.slot, events)
        self.meter.report(replica.slot, events)
        self.versions.report(replica.slot, events)
        usage_kept = self.usage.report(replica.slot, replica_id, events, now_s)
        self.requests.report(replica.slot, events, now_s)
        if self.decisions is not None:
            self.decisions.report(replica.slot, events)
        if self.trials.rolls_out:
            self.trials.report(events)
        self.outliers.report(replica.slot, events, now_s)
        if events.adapters is not None:
            self.adapters.set_loaded(replica.slot, events.adapters, events.adapter_slots, now_s)
        interval_ms = EVENTS_INTERVAL_MS if self.pipeline.choice.by_kv else IDLE_EVENTS_INTERVAL_MS
        interval_ms = max(interval_ms, 1000 * len(self.replicas) // MAX_EVENTS_PER_S)
        renewed = replica.renew(events.born_ms, now_s)
        return EventsAnswer(
            resync=resync or usage_kept < 0,
            interval_ms=interval_ms,
            feed_port=self.feed_port,
            usage_kept=usage_kept if usage_kept >= 0 else self.usage.kept_of(replica_id, events.epoch),
            renewed=renewed,
            edge=self.edge,
            edges=self.other_edges(replica.address),
        )

    # Time

    def sweep(self, now_s: float, keeps: Callable[[Replica], bool] = lambda replica: False) -> Swept:
        """Ends what is overdue; called every `SWEEP_INTERVAL_S`.

        keeps: whether somebody else vouches for a replica whose lease ended here.
        """
        if self._swept_s is not None and now_s - self._swept_s > STALL_S:
            # Heartbeats that came meanwhile lie unread in their sockets.
            self.replicas.extend_leases(now_s - self._swept_s)
        self._swept_s = now_s
        leases = self.replicas.expire_leases(now_s, keeps)
        reservations = self.requests.expire(now_s)
        self.usage.step(now_s)
        self.limits.expire(now_s)
        self.outliers.step(now_s)
        self.trials.step(now_s)
        self.kv.expire(now_s)
        self.adapters.expire(now_s)
        self.kv.index.tidy(TIDY_KEYS)
        self.sessions.expire(now_s, self.pin_ttl_s)
        self.aliases.sessions.expire(now_s, self.pin_ttl_s)
        self.versions.step(now_s)
        return Swept(leases, reservations)

    # Slots

    def _slot_added(self, slot: int) -> None:
        self.load.add_slot(slot)
        self.kv.add_slot(slot, self.replicas.ids[slot])
        self.adapters.add_slot(slot)
        for added in self.on_slot_added:
            added(slot)

    def _slot_removed(self, slot: int) -> None:
        self.catalog.forget(self.replicas.ids[slot])
        for removed in self.on_slot_removed:
            removed(slot)
        self.requests.clear_slot(slot)
        self.load.clear_slot(slot)
        self.kv.clear_slot(slot)
        self.adapters.clear_slot(slot)
        self.outliers.remove(slot, self.replicas.ids[slot])

    def _registry_changed(self) -> None:
        for changed in self.on_registry_changed:
            changed()

    def _trial_changed(self, news: TrialNews) -> None:
        for changed in self.on_trial_changed:
            changed(news)

    def _policy_changed(self) -> None:
        self.trials.policy_changed()
        for changed in self.on_policy_changed:
            changed()


def _build_kv(limits: LimitSettings) -> KVState:
    return KVState(
        max_keys=limits.max_prefix_keys,
        max_conversations=limits.max_conversations,
        conversation_ttl_s=limits.conversation_ttl_s,
    )


def _build_holds(core: Core, limits: LimitSettings) -> HoldQueue:
    return HoldQueue(max_held=limits.max_held, max_bytes=limits.max_held_mb << 20, weight_of=core.tenants.weight_of)


def _build_requests(core: Core, limits: LimitSettings) -> RequestTable:
    return RequestTable(
        load=core.load,
        kv=core.kv,
        holds=core.holds,
        ttl_s=limits.reservation_ttl_s,
        max_requests=limits.max_reservations,
    )


def _build_version_meter(core: Core) -> VersionMeter:
    return VersionMeter(core.book, core.aliases, core.requests, core.kv, core.replicas, core.end_of_request)


def _build_end_of_request(core: Core) -> EndOfRequest:
    return EndOfRequest(
        replicas=core.replicas,
        requests=core.requests,
        kv=core.kv,
        outliers=core.outliers,
        metrics=core.request_metrics,
        meters=Meters(core.meter, core.usage),
        limits=core.limits,
        decisions=core.decisions,
    )
