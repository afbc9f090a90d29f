"""One router process: sockets, tasks and signals around a `Core`.

What a router knows and decides is in `pointsman.router.core`; here its fronts listen and its loops run. There is no
module-level state: two apps in one process do not meet. Constructing a `Router` opens nothing; `Router.running` opens
the sockets and closes them in reverse; `run` is a whole process.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path

import structlog
import uvloop

from pointsman.haproxy.reconcile import Reconciler
from pointsman.haproxy.runtime_api import RuntimeAPI
from pointsman.router.core import SWEEP_INTERVAL_S, Core, CoreConfig
from pointsman.router.decide.fleet_state import DecisionSettings
from pointsman.router.edges.build import build_sharing, introduce
from pointsman.router.fleet.fleets import FleetTable
from pointsman.router.fleet.replica import Health
from pointsman.router.fronts.admin_access import AdminAccess
from pointsman.router.fronts.api.build import AdminParts, build_admin
from pointsman.router.fronts.api.guard import Check, Guard
from pointsman.router.fronts.api.models import ModelsFront
from pointsman.router.fronts.api.stream import Streams
from pointsman.router.fronts.deciding import Decider
from pointsman.router.fronts.feed import FeedProtocol
from pointsman.router.fronts.hold import HoldFront
from pointsman.router.fronts.lookup import FormReader, LookupFront
from pointsman.router.fronts.ring import RingProtocol
from pointsman.router.fronts.spop import SPOPProtocol
from pointsman.router.journal.events import EventLog
from pointsman.router.metrics.access_log import AccessLogCollector
from pointsman.router.metrics.admin import AdminCollector
from pointsman.router.metrics.core import core_collectors
from pointsman.router.metrics.edges import SharingCollector
from pointsman.router.metrics.exposition import Collect
from pointsman.router.metrics.families import collect_all
from pointsman.router.metrics.pools import PoolCollector
from pointsman.router.metrics.process import ProcessCollector
from pointsman.router.metrics.scrape import ScrapeCollector
from pointsman.router.metrics.tracing import TracingCollector
from pointsman.router.metrics.usage import UsageCollector
from pointsman.router.process import clock
from pointsman.router.process.background import BackgroundTasks
from pointsman.router.process.client_sockets import ClientSockets
from pointsman.router.process.garbage import spare_the_collector
from pointsman.router.process.http_servers import serve_http
from pointsman.router.process.listen import Listen, NearListen
from pointsman.router.process.readiness import Readiness
from pointsman.router.process.sockets import bind_tcp, bind_unix
from pointsman.router.settings import Settings
from pointsman.router.watch.decision_feed import build_feed
from pointsman.router.watch.endpoints import EndpointResolver
from pointsman.router.watch.haproxy_servers import EdgeSync
from pointsman.router.watch.live_figures import LiveFigures
from pointsman.router.watch.old_workers import build_old_workers
from pointsman.router.watch.pin_keeper import build_pin_keepers
from pointsman.router.watch.scrape import Scraper
from pointsman.router.watch.state_file import build_state_keeper
from pointsman.router.watch.states import StateWatch
from pointsman.router.watch.static_replicas import forget_unlisted, register_static
from pointsman.router.watch.tenancy import TenancyLoops
from pointsman.router.watch.tracing import build_tracing
from pointsman.router.watch.usage_keeper import build_usage_keeper

SPOP_LEAVE_S = 0.2
"""After AGENT-DISCONNECT: time for HAProxy to read it before the sockets close."""

RING_LEAVE_S = 0.02
"""Time for HAProxy to send the line that it was made to write."""

KEEP_OTHERS_S = 10.0
"""A router that lost its state knows no replica until they register again, some seconds later. HAProxy keeps its
servers for so long, and chooses among them alone."""

NO_SOURCES: Mapping[str, str] = {}

log = structlog.get_logger(__name__)


def core_config(settings: Settings) -> CoreConfig:
    """Return the configuration of the router's core from the settings."""
    return CoreConfig(
        limits=settings.limits,
        outliers=settings.outliers,
        decisions=DecisionSettings(
            pair=settings.pair, silence_s=settings.silence_s, override_header=settings.override_header
        ),
        # Without HAProxy nobody checks health: a registered replica is taken at its word.
        initial_health=Health.STARTING if settings.edge.admin_socket else Health.UP,
        lists_follow=settings.scrape.enabled,
        decision_log=settings.decisions,
        created=int(clock.wall()),
    )


class Router:
    """All parts of one router."""

    def __init__(self, settings: Settings, sources: Mapping[str, str] = NO_SOURCES) -> None:
        """sources: where values of `settings` were given, by dotted key, for people who ask."""
        self.settings = settings
        self._sources = sources
        self.clock = clock.monotonic
        self.readiness = Readiness("haproxy") if settings.edge.admin_socket else Readiness()
        self.tasks = BackgroundTasks(readiness=self.readiness, clock=self.clock, on_given_up=self._give_up)
        dice, config = random.Random(settings.seed), core_config(settings)
        wall, stopwatch = clock.wall, clock.perf_counter
        self.core = core = Core(settings.policy, rng=dice, config=config, wall=wall, stopwatch=stopwatch)
        self.readiness.watch("replicas", core.replicas.memberships.why_none_serves)
        self.readiness.watch_part("models", core.replicas.memberships.why_some_models_are_out)
        self.scraper = Scraper(core, settings=settings.scrape, clock=self.clock)
        self.sharing = build_sharing(settings.shared, core, readiness=self.readiness, clock=self.clock)
        for changes in (core.on_registry_changed, core.on_policy_changed, core.aliases.on_changed):
            changes.append(self._changed)
        core.on_trial_changed.append(lambda news: self._changed())
        self.tracing = build_tracing(settings, core, readiness=self.readiness)
        self.decider = Decider(
            core.pipeline,
            core.decision_metrics,
            clock=self.clock,
            stopwatch=stopwatch,
            isolate_tenants=settings.isolate_tenants,
            aliases=core.aliases,
            tenants=core.tenants,
            trace=self.tracing.start if self.tracing is not None else None,
        )
        self._keeper = build_state_keeper(settings.state_file, core, readiness=self.readiness)
        self.usage = build_usage_keeper(settings, core.usage, readiness=self.readiness, clock=self.clock)
        self.endpoints = EndpointResolver(settings.admin.engine_networks)
        self.access = AdminAccess(settings.admin, readiness=self.readiness)
        guard = Guard(self.access.tokens, hosts=settings.admin.hosts)
        self.fleets = FleetTable()
        self.tenancy = TenancyLoops(settings, core, readiness=self.readiness, wall=wall)
        self.events = EventLog(wall=wall)
        self.streams = Streams()
        self.decisions = build_feed(core, settings.decisions, clock=self.clock, wall=wall)
        self.metrics = self._collect(guard)
        self.live = LiveFigures(core, self.sharing, self.readiness, clock=self.clock, wall=wall)
        self.admin = build_admin(guard, self._admin_parts(), settings.admin)
        self._states = StateWatch(core, self.events, self.sharing.protocol.peers if self.sharing is not None else None)
        self.edge_sync: EdgeSync | None = None
        self._pin_keepers = build_pin_keepers(settings.state_file, core, clock=self.clock, wall=wall)
        self._spop_connections: set[SPOPProtocol] = set()
        self._rings: set[RingProtocol] = set()
        self._feeds: set[FeedProtocol] = set()
        self.access.on_tokens_changed += [self._check_feeds, self.streams.end]
        self.stop = asyncio.Event()
        """Set by a signal, or by a part that cannot go on."""
        self.failed = False
        self.addresses: dict[str, Listen] = {}
        """Address of each front, once the router serves: spop, lookup, ring, feed, admin."""

    def _collect(self, guard: Guard) -> Collect:
        """Return the source of the page of metrics."""
        core = self.core
        return collect_all(
            *core_collectors(core),
            UsageCollector(core.usage, self.usage),
            ScrapeCollector(self.scraper, core.load, core.replicas),
            AdminCollector(lambda: {check: guard.refused[check] for check in Check}, self.access.file_errors),
            PoolCollector(self.fleets, self.clock),
            ProcessCollector(self.tasks, self.readiness, self._keeper, self.tenancy.file),
            AccessLogCollector(self.decisions.access_log if self.decisions is not None else None),
            *((SharingCollector(self.sharing),) if self.sharing is not None else ()),
            *((TracingCollector(self.tracing),) if self.tracing is not None else ()),
        )

    def _admin_parts(self) -> AdminParts:
        return AdminParts(
            core=self.core,
            decider=self.decider,
            sharing=self.sharing,
            endpoints=self.endpoints,
            fleets=self.fleets,
            readiness=self.readiness,
            metrics=self.metrics,
            decisions=self.decisions,
            live=self.live,
            usage=self.usage,
            events=self.events,
            streams=self.streams,
            settled=self.tenancy.settled,
            clock=self.clock,
            settings=self.settings,
            sources=self._sources,
        )

    def _changed(self) -> None:
        """The registry or the policy changed: saved, asked for and applied soon."""
        if self._keeper is not None:
            self._keeper.changed()
        self.scraper.wake()
        if self.edge_sync is not None:
            self.edge_sync.wake()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Router]:
        """Serves while the context is open. Raises SettingsError when an address cannot be listened on."""
        self.access.load()
        if self._keeper is not None:
            self._keeper.load(self.clock())
            forget_unlisted(self.core.replicas, self.endpoints)
        for keeper in self._pin_keepers.values():
            keeper.load()
        await register_static(self.settings.replicas, self.core.replicas, self.endpoints, self.clock())
        async with AsyncExitStack() as stack:
            stack.callback(self.endpoints.close)
            settings = self.settings
            self.tasks.watch_loop(stack)
            self.usage.start(stack, self.tasks)
            self.tasks.start(stack, "sweep", self._sweep)
            for files in self.access.files:
                self.tasks.start(stack, files.part, files.run)
            if self._keeper is not None:
                stack.callback(self._keeper.save)
                self.tasks.start(stack, "save", self._keeper.run)
            for kind, keeper in self._pin_keepers.items():
                stack.callback(keeper.save)
                self.tasks.start(stack, f"save {kind}", keeper.run)
            self.tenancy.start(stack, self.tasks)
            if settings.edge.admin_socket:
                self._start_edge_sync(stack)
            if self.decisions is not None:
                stack.callback(self.decisions.close)
                self.tasks.start(stack, "decisions", self.decisions.run)
                if self.tracing is not None:
                    self.tracing.start_sending(stack, self.tasks, self.decisions)
            self.tasks.start(stack, "live figures", self.live.run)
            if settings.scrape.enabled:
                self.tasks.start(stack, "scrape", self.scraper.run)
            stack.push_async_callback(self._leave_ring)
            await self._listen(stack, "ring", settings.ring, self._ring_protocol)
            await self._listen(stack, "spop", settings.spop, self._spop_protocol)
            stack.push_async_callback(self._leave_spop)
            feed = NearListen(settings.admin.host, settings.admin.feed_port)
            await self._listen(stack, "feed", feed, self._feed_protocol, tls=self.access.tls)
            self.core.feed_port = self.addresses["feed"].port
            stack.callback(self._hang_up_feeds)
            await self._serve_lookup(stack)
            admin = self._bind("admin", settings.admin.listen)
            await serve_http(stack, "admin", admin, self.admin.app(), self._give_up, tls=self.access.tls)
            stack.callback(self.streams.close)
            if self.sharing is not None:
                self.sharing.info = introduce(
                    self.sharing.info, str(self.addresses["admin"]), clock.wall(), scheme=settings.admin.scheme
                )
                self.tasks.start(stack, "sharing", self.sharing.run)
            log.info(
                "router serving",
                policy=self.core.pipeline.policy.name,
                replicas=len(self.core.replicas),
                **{name: str(address) for name, address in self.addresses.items()},
            )
            yield self

    def _start_edge_sync(self, stack: AsyncExitStack) -> None:
        edge = self.settings.edge
        old_workers = build_old_workers(edge, self.core, self.clock)
        if old_workers is not None:
            stack.push_async_callback(old_workers.close)
        self.edge_sync = EdgeSync(
            Reconciler(RuntimeAPI(edge.admin_socket), edge.backend, edge.server_options),
            self.core,
            readiness=self.readiness,
            clock=self.clock,
            interval_s=edge.interval_s,
            old_workers=old_workers,
            on_worker=self.tenancy.keys.worker_began if self.tenancy.keys is not None else None,
            keep_others_s=KEEP_OTHERS_S if self._keeper is not None and self._keeper.set_aside else 0.0,
        )
        self.tasks.start(stack, "edge sync", self.edge_sync.run)

    async def _serve_lookup(self, stack: AsyncExitStack) -> None:
        """Serve lookups over HTTP, held requests and the list of models, for HAProxy alone."""
        address = self.settings.lookup
        forms = FormReader(loopback=address.is_loopback and not address.path)
        holding = HoldFront(self.decider, self.core.turns, forms, self.clock, ClientSockets())
        front = LookupFront(self.decider, forms, *holding.routes(), *ModelsFront(self.core.catalog).routes())
        await serve_http(stack, "lookup", self._bind_near(stack, "lookup", address), front.app(), self._give_up)
        stack.callback(holding.close)

    def _ring_protocol(self) -> RingProtocol:
        return RingProtocol(self.core.end_of_request, self.core.request_metrics, self._rings, self.clock)

    def _feed_protocol(self) -> FeedProtocol:
        return FeedProtocol(self.core, self._feeds, self.access.tokens, self.clock)

    def _check_feeds(self) -> None:
        for connection in list(self._feeds):
            connection.check_token()

    def _hang_up_feeds(self) -> None:
        for connection in list(self._feeds):
            connection.close()

    def _spop_protocol(self) -> SPOPProtocol:
        return SPOPProtocol(self.decider, self.core.decision_metrics, self._spop_connections)

    async def _listen(
        self,
        stack: AsyncExitStack,
        name: str,
        address: NearListen,
        protocol: Callable[[], asyncio.Protocol],
        *,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        loop, sock = asyncio.get_running_loop(), self._bind_near(stack, name, address)
        if address.path:
            server = await loop.create_unix_server(protocol, sock=sock)
        else:
            server = await loop.create_server(protocol, sock=sock, ssl=tls)
        stack.callback(server.close)

    def _bind_near(self, stack: AsyncExitStack, name: str, address: NearListen) -> socket.socket:
        if not address.path:
            return self._bind(name, address)
        sock = bind_unix(name, address.path)
        stack.callback(Path(address.path).unlink, missing_ok=True)
        self.addresses[name] = address
        return sock

    def _bind(self, name: str, address: Listen) -> socket.socket:
        sock, self.addresses[name] = bind_tcp(name, address)
        return sock

    def _give_up(self) -> None:
        """A part cannot go on: the process ends, and its supervisor starts a fresh one."""
        self.failed = True
        self.stop.set()

    async def _leave_spop(self) -> None:
        if self._spop_connections:
            for connection in list(self._spop_connections):
                connection.leave()
            await asyncio.sleep(SPOP_LEAVE_S)

    async def _leave_ring(self) -> None:
        for connection in self._rings:
            connection.pause()
        if self._rings and self.edge_sync is not None:
            await self.edge_sync.write_to_ring()
            await asyncio.sleep(RING_LEAVE_S)
        for connection in list(self._rings):
            connection.leave()

    async def _sweep(self) -> None:
        protocol = self.sharing.protocol if self.sharing is not None else None
        while True:
            now_s = self.clock()
            swept = self.core.sweep(now_s) if protocol is None else self.core.sweep(now_s, protocol.keeps)
            for replica in swept.leases:
                log.warning("lease ended, replica removed", replica=replica)
            if swept.reservations:
                log.warning("reservations expired without an end-of-request line", count=swept.reservations)
            for _ in self._states.look(swept.leases):
                await asyncio.sleep(0)
            if self.sharing is not None:
                self.sharing.protocol.registrations.lease_ended(swept.leases)
                self.sharing.sweep(now_s)
            await asyncio.sleep(SWEEP_INTERVAL_S)


def run(settings: Settings, sources: Mapping[str, str] = NO_SOURCES) -> int:
    """One router process: serves until SIGTERM or SIGINT; the exit code. Raises SettingsError before it serves."""

    async def serve() -> int:
        router = Router(settings, sources)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, router.stop.set)
        async with router.running():
            spare_the_collector()
            await router.stop.wait()
            log.info("router stopping")
        return 1 if router.failed else 0

    code: int = uvloop.run(serve())
    return code
