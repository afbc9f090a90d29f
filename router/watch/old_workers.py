"""Workers of HAProxy that a reload has replaced and that still finish their streams, for hours where streams last.

Such a worker closes its log ring to the router when it begins to leave, and the sessions of its servers are not among
those of the worker after it. So the router keeps one connection to the Runtime API of the current worker open. When the
worker leaves, its ring is read over this connection (`show events`) from the first line on that did not come before: no
end of a request is lost, and nothing is sent twice while no worker leaves. What its servers are serving is asked for
through the master's socket in each round of the edge sync, as a second witness beside the lines.

An open connection keeps a worker from ending, so that it cannot leave before its last line is read. It is closed once
the worker has had no client connection in two rounds.

Not covered: of a worker that had been replaced before this router started, and of one replaced within a round of its
own start, the sessions are counted, but lines are not read.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable

import structlog

from pointsman.haproxy.config import RING
from pointsman.haproxy.errors import HAProxyError, WorkerGone
from pointsman.haproxy.runtime_api import MasterAPI
from pointsman.haproxy.worker import WorkerConnection
from pointsman.router.core import Core
from pointsman.router.process.clock import Clock
from pointsman.router.settings import EdgeSettings

RING_CLOSES_S = 0.1
"""Seconds until all lines that a leaving worker sent through its ring are applied, so that none is read twice."""

TIMEOUT_S = 0.5
"""For each question to an old worker. They are asked in the rounds of the edge sync, and one that hangs must not hold
those up for long."""

IDLE_ROUNDS = 2
"""Rounds without a client connection after which a worker has nothing more to report: in the second, the lines of the
first are read."""

_END = re.compile(rb'\{"ev":"end","id":"([^"]*)"')
_ID = re.compile(rb'"id":"([^"]*)"')

log = structlog.get_logger(__name__)


class UnseenLines:
    """Applies the lines of a ring from the first on that had not been applied before.

    Lines come oldest first. All up to the one that ends `last_id` were applied already. Where that line is not among
    them (none was, or the ring was overwritten meanwhile), a line is known to be new only while its request is
    reserved, so others do not count anywhere.
    """

    def __init__(self, apply: Callable[[bytes], None], *, last_id: str | None, reserved: Callable[[str], bool]) -> None:
        self._apply = apply
        self._last_id = None if last_id is None else last_id.encode()
        self._reserved = reserved
        self._caught_up = False

    def feed(self, lines: Iterable[bytes]) -> None:
        """Takes lines in their order; empty ones are the Runtime API's."""
        for line in lines:
            if not line:
                continue
            if self._caught_up:
                self._apply(line)
                continue
            end = _END.match(line)
            if end is not None and end[1] == self._last_id:
                self._caught_up = True
                continue
            found = _ID.search(line)
            if found is not None and self._reserved(found[1].decode("ascii", "replace")):
                self._apply(line)


class _Leaving:
    """A worker whose ring is being read."""

    def __init__(self, connection: WorkerConnection) -> None:
        self.connection = connection
        self.idle_rounds = 0
        self.task: asyncio.Task[None] | None = None


class OldWorkers:
    """Reads the rings of leaving workers and counts their sessions. `look` is called in each round of the edge sync."""

    def __init__(
        self,
        *,
        connect: Callable[[], Awaitable[WorkerConnection]],
        master: MasterAPI,
        backend: str,
        core: Core,
        clock: Clock,
    ) -> None:
        """connect: opens a connection to the current worker; raises HAProxyError when it cannot.
        backend: the backend that has the replicas as its servers.
        """
        self._connect = connect
        self._master = master
        self._backend = backend
        self._end_of_request = core.end_of_request
        self._requests = core.requests
        self._clock = clock
        self._kept: dict[int, WorkerConnection] = {}
        """The current worker's connection, and those of workers replaced just now."""
        self._leaving: dict[int, _Leaving] = {}
        self._expected = True
        """Whether there may be old workers: at first nobody knows."""
        self.count = 0
        """Old workers at the last look."""
        self.sessions: Counter[str] = Counter()
        """Requests that old workers serve or queue, by server name."""
        self.all_seen = True
        """Whether the last look could count the sessions of every old worker."""
        self._problem = ""

    async def look(self, current: int | None) -> None:
        """Follows what has become of the workers. Never raises: an old worker that cannot be asked is `all_seen` False.

        `current` is the pid of the worker behind the admin socket, None when there is none, as while HAProxy stops.
        """
        if current is not None and current not in self._leaving:
            await self._keep(current)
        for pid in [pid for pid in self._kept if pid != current]:
            await self._leave(pid)
        if self._leaving or (self._expected and current is not None):
            await self._count(current)

    async def close(self) -> None:
        """Ends all connections, which lets old workers end."""
        tasks = [leaving.task for leaving in self._leaving.values() if leaving.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for connection in self._kept.values():
            connection.close()
        self._kept.clear()

    async def _keep(self, pid: int) -> None:
        known = self._kept.get(pid)
        if known is not None:
            if known.is_open:
                return
            known.close()
            del self._kept[pid]
        self._expected = True
        try:
            connection = await self._connect()
        except HAProxyError as error:
            self._warn("no connection to HAProxy's worker is kept", error)
            return
        if connection.pid == pid:
            self._kept[pid] = connection
        else:  # reloaded meanwhile; the next round meets the new worker
            connection.close()

    async def _leave(self, pid: int) -> None:
        """Starts reading the ring of a worker that is not the current one, once it is stopping."""
        connection = self._kept[pid]
        try:
            stopping = (await connection.info()).stopping
        except HAProxyError:  # it has died
            connection.close()
            del self._kept[pid]
            return
        if stopping:
            del self._kept[pid]
            leaving = self._leaving[pid] = _Leaving(connection)
            leaving.task = asyncio.create_task(self._read(pid, connection), name=f"ring of HAProxy worker {pid}")

    async def _read(self, pid: int, connection: WorkerConnection) -> None:
        try:
            await asyncio.sleep(RING_CLOSES_S)
            lines = UnseenLines(
                lambda raw: self._end_of_request.apply(raw, self._clock()),
                last_id=self._end_of_request.last_ids.get(pid),
                reserved=self._requests.is_reserved,
            )
            async for batch in connection.ring(RING):
                lines.feed(batch)
        except HAProxyError as error:
            log.warning("the ring of an old HAProxy worker cannot be read", pid=pid, error=str(error))
        except Exception:
            log.exception("the ring of an old HAProxy worker is not read any more", pid=pid)
        finally:
            connection.close()
            self._leaving.pop(pid, None)

    async def _count(self, current: int | None) -> None:
        sessions: Counter[str] = Counter()
        all_seen = True
        try:
            pids = set(await self._master.workers()) - {current}
        except HAProxyError as error:
            self._warn("the old workers of HAProxy cannot be counted", error)
            self.sessions, self.all_seen = sessions, False
            return
        for pid in sorted(pids):
            try:
                connections = (await self._master.worker_info(pid)).connections
                servers = await self._master.worker_stat(pid, self._backend)
            except WorkerGone:
                continue
            except HAProxyError as error:
                self._warn("an old worker of HAProxy cannot be asked", error)
                all_seen = False
                continue
            for server in servers:
                if busy := server.sessions + server.queued:
                    sessions[server.name] += busy
            self._let_go(pid, connections)
        self.sessions, self.all_seen, self.count = sessions, all_seen, len(pids)
        self._expected = bool(pids)
        if all_seen:
            self._problem = ""

    def _warn(self, what: str, error: HAProxyError) -> None:
        if str(error) != self._problem:  # once, not in every round
            log.warning(what, error=str(error))
            self._problem = str(error)

    def _let_go(self, pid: int, connections: int) -> None:
        leaving = self._leaving.get(pid)
        if leaving is not None:
            leaving.idle_rounds = 0 if connections else leaving.idle_rounds + 1
            if leaving.idle_rounds >= IDLE_ROUNDS:
                leaving.connection.close()


def build_old_workers(edge: EdgeSettings, core: Core, clock: Clock) -> OldWorkers | None:
    """Build what reads the rings of leaving workers; None where the master's socket is not known."""
    if not edge.master_socket:
        return None
    return OldWorkers(
        connect=lambda: WorkerConnection.open(edge.admin_socket),
        master=MasterAPI(edge.master_socket, timeout_s=TIMEOUT_S),
        backend=edge.backend,
        core=core,
        clock=clock,
    )
