"""Keeps one HAProxy's servers as the registry wants them, and brings back what HAProxy observes.

`EdgeSync` runs rounds: desired servers against actual ones over the admin socket, every `interval_s` and at once when
the registry changes. From each round come the health of every replica, its sessions (for `LoadTable.observe`; those of
old workers count too) and whether HAProxy restarted. HAProxy away is expected: health stays as last seen, the fault is
counted and reported by readiness, and the next round tries again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from haproxy.errors import HAProxyError
from haproxy.reconcile import DesiredServer, Observation, Reconciler
from router.body_needs import BodyNeeds
from router.clock import Clock
from router.metrics import EdgeHealth
from router.old_workers import OldWorkers
from router.readiness import Readiness
from router.state.load import LoadTable
from router.state.replicas import Health, ReplicaRegistry
from router.state.schema import Role

BODY_VARIABLE = "proc.pm.body"
WINDOW_VARIABLE = "proc.pm.window"

log = structlog.get_logger(__name__)

_HEALTH = {"up": Health.UP, "down": Health.DOWN, "starting": Health.STARTING}


class EdgeSync:
    """The loop between registry and HAProxy."""

    def __init__(
        self,
        reconciler: Reconciler,
        *,
        replicas: ReplicaRegistry,
        load: LoadTable,
        health: EdgeHealth,
        readiness: Readiness,
        body_needs: Callable[[], BodyNeeds],
        clock: Clock,
        interval_s: float,
        old_workers: OldWorkers | None = None,
        keep_others_s: float = 0.0,
    ) -> None:
        """`keep_others_s` is how long servers of HAProxy that nobody has registered are left in place.

        Without `old_workers`, streams that run on in the old workers of a reload cannot be seen: their reservations
        end by their lines or by expiring.
        """
        self._reconciler = reconciler
        self._old_workers = old_workers
        self._replicas = replicas
        self._load = load
        self._health = health
        self._readiness = readiness
        self._body_needs = body_needs
        self._clock = clock
        self._interval_s = interval_s
        self._keep_others_until_s = clock() + keep_others_s
        self._wake = asyncio.Event()
        self._pid: int | None = None
        self._told: BodyNeeds | None = None

    def wake(self) -> None:
        """Something changed: the next round starts now."""
        self._wake.set()

    async def run(self) -> None:
        """Rounds until cancelled."""
        while True:
            self._wake.clear()
            try:
                await self.round()
            except HAProxyError as error:
                self._failed(error)
            try:
                async with asyncio.timeout(self._interval_s):
                    await self._wake.wait()
            except TimeoutError:
                pass

    async def round(self) -> None:
        """One comparison. Raises HAProxyError when HAProxy is away or refuses."""
        desired = {
            replica.id: DesiredServer(
                replica.id,
                replica.host,
                replica.port,
                drain=replica.draining or replica.role is Role.PREFILL,
                health_path=replica.registration.health_path,
                names=replica.names,
                model=replica.model,
            )
            for replica in self._replicas
        }
        try:
            keeps_others = self._clock() < self._keep_others_until_s
            observation = await self._reconciler.step(desired, keep_others=keeps_others)
        except HAProxyError:
            await self._look_at_old_workers(None)
            raise
        await self._look_at_old_workers(observation.pid)
        if observation.pid != self._pid:
            self._health.body_window_bytes = await self._reconciler.get_variable(WINDOW_VARIABLE)
        self._apply(observation)
        needs = self._body_needs()
        if needs is not self._told:
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

    def _apply(self, observation: Observation) -> None:
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
        for name, server in observation.servers.items():
            replica = self._replicas.get(name)
            if replica is None or (server.host, server.port) != (replica.host, replica.port):
                continue  # it changed while we asked; the next round sees it
            if self._replicas.set_health(name, _HEALTH[server.health]):
                log.info("replica health", replica=name, health=server.health, url=replica.url)
            if replica.role is not Role.PREFILL:  # decode replicas send it its work, past HAProxy
                sessions = server.sessions + server.queued + elsewhere.get(name, 0)
                self._load.observe(replica.slot, sessions, now_s)

    def _failed(self, error: HAProxyError) -> None:
        self._health.sync_errors += 1
        if self._health.haproxy_up or str(error) != self._health.last_error:
            log.warning("edge sync failed", error=str(error))
        self._health.haproxy_up = False
        self._health.last_error = str(error)
        self._readiness.lost("haproxy", str(error))
