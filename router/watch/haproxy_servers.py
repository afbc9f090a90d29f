"""Keeps one HAProxy's servers as the registry wants them, and brings back what HAProxy observes.

`EdgeSync` runs rounds: desired servers against actual ones over the admin socket, every `interval_s` (in large fleets
less often) and at once when the registry changes. No round holds the event loop for long: other tasks run between
slices of the fleet. From each round come the health of every replica, its sessions (for `LoadTable.observe`; those of
old workers count too) and whether HAProxy restarted. HAProxy away is expected: health stays as last seen, the fault is
counted and reported by readiness, and the next round tries again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

import structlog

from pointsman.contract.registration import Role
from pointsman.haproxy.errors import HAProxyError
from pointsman.haproxy.lookup_rules import RULES_VARIABLE, LookupRules
from pointsman.haproxy.reconcile import DesiredServer, Observation, ObservedServer, Reconciler
from pointsman.router.core import Core
from pointsman.router.decide.body_needs import BodyNeeds, body_needs
from pointsman.router.fleet.replica import Health, Replica
from pointsman.router.process.clock import Clock
from pointsman.router.process.readiness import Readiness
from pointsman.router.process.slices import in_slices
from pointsman.router.watch.old_workers import OldWorkers

BODY_VARIABLE = "proc.pm.body"
WINDOW_VARIABLE = "proc.pm.window"

PACE_S = 0.001
"""Between two rounds, for each replica: a round of 1,000 takes some 12 ms of a core, so that 1 % of it goes there."""

REST = 2.0
"""So much longer between two rounds while no request is in flight and every replica is up: should one fail meanwhile,
HAProxy sends the first request for it to the second choice, and the next round knows."""

log = structlog.get_logger(__name__)

_HEALTH = {"up": Health.UP, "down": Health.DOWN, "starting": Health.STARTING}


def _desired(replica: Replica, aliases: Mapping[str, Sequence[str]]) -> DesiredServer:
    """The server of a replica. aliases: by model, those whose stable version it is."""
    names, taken = replica.names, frozenset[str]()
    if names and replica.model in aliases:
        taken = frozenset(alias for alias in aliases[replica.model] if replica.takes_alias(alias))
        names |= taken
    return DesiredServer(
        replica.id,
        replica.host,
        replica.port,
        replica.draining or replica.role is Role.PREFILL,
        replica.registration.health_path,
        names,
        replica.model,
        taken,
    )


class EdgeSync:
    """The loop between registry and HAProxy."""

    def __init__(
        self,
        reconciler: Reconciler,
        core: Core,
        *,
        readiness: Readiness,
        clock: Clock,
        interval_s: float,
        old_workers: OldWorkers | None = None,
        on_worker: Callable[[str], None] | None = None,
        keep_others_s: float = 0.0,
    ) -> None:
        """interval_s: pause between two rounds, in seconds, where the fleet is small and requests are in flight.
        old_workers: counts what the old workers of a reload still stream. None where they cannot be asked: their
        reservations end by their lines or by expiring.
        on_worker: called with each worker of HAProxy that is met first, and the path of its map of API keys.
        keep_others_s: how long servers of HAProxy that nobody has registered are left in place, in seconds.
        """
        self._reconciler = reconciler
        self._old_workers = old_workers
        self._on_worker = on_worker
        self._pipeline = core.pipeline
        self._replicas = core.replicas
        self._aliases = core.aliases
        self._load = core.load
        self._requests = core.requests
        self._health = core.edge_health
        self._checks = core.replicas.checks
        self._readiness = readiness
        self._clock = clock
        self._interval_s = interval_s
        self._keep_others_until_s = clock() + keep_others_s
        self._wake = asyncio.Event()
        self._pid: int | None = None
        self._told: BodyNeeds | None = None
        """Parts of bodies that this HAProxy reads; None before it was set."""

    def wake(self) -> None:
        """Starts the next round now: something changed."""
        self._wake.set()

    async def run(self) -> None:
        """Runs rounds until cancelled."""
        while True:
            self._wake.clear()
            try:
                await self.round()
            except HAProxyError as error:
                self._failed(error)
            try:
                async with asyncio.timeout(self.pause_s()):
                    await self._wake.wait()
            except TimeoutError:
                pass

    async def write_to_ring(self) -> None:
        """Have HAProxy write a line to its log ring, if it is there."""
        with suppress(HAProxyError):
            await self._reconciler.write_to_ring()

    def pause_s(self) -> float:
        """Return the pause before the next round, in seconds, unless something calls for it before."""
        pause_s = max(self._interval_s, PACE_S * len(self._replicas))
        at_rest = not self._load.total_in_flight and all(replica.health is Health.UP for replica in self._replicas)
        return pause_s * REST if at_rest and self._health.haproxy_up else pause_s

    async def round(self) -> None:
        """Compares once. Raises HAProxyError when HAProxy is away or refuses."""
        desired: dict[str, DesiredServer] = {}
        aliases = self._aliases.by_stable_model()
        for replicas in in_slices(self._replicas):
            desired |= {replica.id: _desired(replica, aliases) for replica in replicas}
            await asyncio.sleep(0)
        try:
            keeps_others = self._clock() < self._keep_others_until_s
            observation = await self._reconciler.step(desired, keep_others=keeps_others)
        except HAProxyError:
            await self._look_at_old_workers(None)
            raise
        await self._look_at_old_workers(observation.pid)
        if self._pid is None:
            await self._reconciler.write_to_ring()
        if observation.pid != self._pid:
            self._health.body_window_bytes = await self._reconciler.get_variable(WINDOW_VARIABLE)
            rules = await self._reconciler.get_text(RULES_VARIABLE)
            self._health.lookup_rules = LookupRules.read(rules) if rules else None
            if self._on_worker is not None:
                self._on_worker(self._health.lookup_rules.keys_map if self._health.lookup_rules is not None else "")
        await self._apply(observation)
        needs = body_needs(
            self._pipeline.choice.needs, len(self._replicas.memberships.names()), aliases=bool(self._aliases)
        )
        if needs != self._told:
            await self._reconciler.set_variable(BODY_VARIABLE, int(needs))
            self._told = needs
        if not self._health.haproxy_up:
            self._health.haproxy_up = True
            self._health.last_error = ""
            self._readiness.met("haproxy")
            log.info("HAProxy attached", pid=observation.pid, servers=len(observation.servers))

    async def _look_at_old_workers(self, current: int | None) -> None:
        """Without a current worker too: those that finish their streams when HAProxy stops are old workers."""
        old_workers = self._old_workers
        if old_workers is None:
            return
        await old_workers.look(current)
        self._health.old_workers = old_workers.count
        if not old_workers.all_seen:
            self._load.lose_sight(self._clock())
        elif self._load.is_blind:
            self._load.regain_sight()

    async def _apply(self, observation: Observation) -> None:
        if observation.pid != self._pid:
            if self._pid is not None:
                self._health.restarts_seen += 1
                if self._old_workers is None:
                    self._load.lose_sight(self._clock())
                log.info("HAProxy restarted", before=self._pid, pid=observation.pid)
            self._pid = observation.pid
            self._told = None
        now_s = self._clock()
        elsewhere = self._old_workers.sessions if self._old_workers is not None else {}
        for servers in in_slices(observation.servers.values()):
            for server in servers:
                self._apply_one(server, elsewhere.get(server.name, 0), now_s)
            await asyncio.sleep(0)

    def _apply_one(self, server: ObservedServer, elsewhere: int, now_s: float) -> None:
        """State of one server in HAProxy; `elsewhere` are its sessions in old workers."""
        replica = self._replicas.get(server.name)
        if replica is None or (server.host, server.port) != (replica.host, replica.port):
            return  # it changed while we asked; the next round sees it
        self._checks.saw(replica.slot, server.check, now_s)
        if self._replicas.set_health(server.name, _HEALTH[server.health], now_s):
            log.info("replica health", replica=server.name, health=server.health, url=replica.url)
        if replica.role is not Role.PREFILL:  # decode replicas send it its work, past HAProxy
            self._requests.observe(replica.slot, server.sessions + server.queued + elsewhere, now_s)

    def _failed(self, error: HAProxyError) -> None:
        self._health.sync_errors += 1
        if self._health.haproxy_up or str(error) != self._health.last_error:
            log.warning("edge sync failed", error=str(error))
        self._health.haproxy_up = False
        self._health.last_error = str(error)
        self._readiness.lost("haproxy", str(error))
