"""Publishes what changes in an engine: prefix keys, first tokens, ends of requests, load.

`Publisher` collects changes and sends them through each of its transports (engine/transport.py), one for each listener,
at most one message at a time, as often as that listener asks for (20 ms while a router's policy reads the events).
Messages are numbered for each listener apart; the first one, and each one after a lost one, is a snapshot of all that
is resident. So a router that was away, restarted or overrun is right again with the next message. Nothing grows while a
listener is away: what waits is bounded, and beyond the bound a snapshot replaces it.

Reports of usage are the exception, since nothing replaces them: each is kept until every listener has kept it, and sent
again after a failure (`pointsman.engine.usage_reports`).

The router of an edge that shares its state names the other edges. The publisher reports to those too, since edges relay
nothing of what an engine holds.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec

from pointsman.contract.backoff import Backoff
from pointsman.contract.events import (
    MAX_EDGES,
    EngineEvents,
    EngineLoad,
    EventsAnswer,
    Finished,
    FirstToken,
    Handoffs,
    RequestUsage,
)
from pointsman.engine.transport import Transport, TransportError
from pointsman.engine.usage_reports import UsageReports

log = logging.getLogger("pointsman.publisher")

INTERVAL_S = 0.02
"""Seconds for which changes are collected until a listener has asked for another interval."""

HEARTBEAT_S = 2.5
"""Without changes a message goes out this often: it renews the replica's lease, by default of 10 s, and a router that
came back empty learns what is resident, where the transport did not see the router go."""

BACKOFF_FIRST_S = 0.05
BACKOFF_MAX_S = 1.0
"""Between tries to reach a listener that is away: about so long after it is back it knows what is resident."""

MAX_PENDING_KEYS = 65_536
"""Changes waiting for one listener. Beyond, it gets a snapshot."""

MAX_PENDING_REQUESTS = 16_384
"""First tokens, and ends, waiting for one listener. Beyond, the oldest go: reservations end without them too."""

FORGET_S = 60.0
"""A listener that another one named, and none names any more, is given up after so long."""


class EngineFacts(msgspec.Struct, kw_only=True):
    """Facts about one incarnation of an engine that every message contains."""

    epoch: str
    """Names the incarnation."""
    capacity_tokens: int
    """KV the engine has room for."""
    born_ms: int = 0
    """Start time of the incarnation, in milliseconds since 1970; 0 is unknown."""
    block_tokens: int = 0
    """KV is cached in blocks of so many tokens; 0 is unknown."""
    adapter_slots: int = 0
    """LoRA adapters that one batch may hold."""


@dataclass(frozen=True, kw_only=True)
class EngineReadings:
    """Values that are read from an engine whenever a message is made."""

    resident: Callable[[], list[int]]
    """All prefix keys that are resident."""
    load: Callable[[], EngineLoad]
    depths: Callable[[Sequence[int]], list[int]] = lambda keys: []
    """Blocks in the prefixes that keys name; empty where that is unknown."""
    handoffs: Callable[[], Handoffs | None] = lambda: None
    """Totals of a decode replica; None for other roles."""
    adapters: Callable[[], list[str] | None] = lambda: None
    """LoRA adapters that are loaded; None where that is unknown."""


class Publisher:
    """Publishes one engine's events: call the four methods between `start` and `stop`."""

    def __init__(
        self,
        transports: Sequence[Transport],
        facts: EngineFacts,
        readings: EngineReadings,
        *,
        reach: Callable[[str], Transport] | None = None,
    ) -> None:
        """`reach` makes a transport to the admin URL of an edge that another one named. None: only `transports` are
        served."""
        self.usage = UsageReports()
        self._listeners = [_Listener(transport, self) for transport in transports]
        self._reach = reach
        self._tasks: asyncio.TaskGroup | None = None
        self._running: asyncio.Task[None] | None = None
        self.facts = facts
        self.readings = readings
        self.changes = 1
        """Changes of residency in this incarnation; the empty cache it began with is the first."""

    @property
    def snapshots(self) -> int:
        """Snapshots sent, to all listeners."""
        return sum(listener.snapshots for listener in self._listeners)

    def keys(self, stored: Sequence[int], evicted: Sequence[int]) -> None:
        """Publish prefix keys that became resident, and keys that no longer are."""
        if stored or evicted:
            self.changes += 1
            for listener in self._listeners:
                listener.keys(stored, evicted)

    def first_token(self, first: FirstToken) -> None:
        """Publish that a request has its first token."""
        for listener in self._listeners:
            listener.first.append(first)
            listener.wake()

    def finished(self, finished: Finished) -> None:
        """Publish that a request ended."""
        for listener in self._listeners:
            listener.finished.append(finished)
            listener.wake()

    def used(self, usage: RequestUsage) -> None:
        """Publish the tokens of a request that left the engine. Call it before `finished`, so that both go together."""
        self.usage.add(usage)
        for listener in self._listeners:
            listener.wake()

    def start(self) -> asyncio.Task[None]:
        """Begin to send; the task ends by `stop` alone."""
        self._running = asyncio.create_task(self.run(), name="publish")
        return self._running

    async def run(self) -> None:
        """Send until cancelled."""
        try:
            async with asyncio.TaskGroup() as self._tasks:
                for listener in self._listeners:
                    self._serve(listener)
        finally:
            self._tasks = None

    def _serve(self, listener: _Listener) -> None:
        assert self._tasks is not None
        listener.task = self._tasks.create_task(listener.run(), name=f"publish to {listener.transport}")

    def follow_edges(self, listener: _Listener, answer: EventsAnswer, now_s: float) -> None:
        """Report to the edges that a listener's answer names, and give up those that none names any more."""
        if self._reach is None or self._tasks is None:
            return
        listener.edge = answer.edge
        by_edge: dict[str, _Listener] = {}
        for known in self._listeners:  # those that the engine was given come first
            by_edge.setdefault(known.edge, known)
        for edge, url in answer.edges.items():
            if edge not in by_edge and len(self._listeners) < MAX_EDGES:
                by_edge[edge] = _Listener(self._reach(url), self, edge=edge, found=True)
                self._listeners.append(by_edge[edge])
                self._serve(by_edge[edge])
            if edge in by_edge:
                by_edge[edge].named_s = now_s
        for known in self._listeners.copy():
            if known.found and (by_edge.get(known.edge) is not known or now_s - known.named_s > FORGET_S):
                self._give_up(known)

    def _give_up(self, listener: _Listener) -> None:
        assert self._tasks is not None and listener.task is not None
        self._listeners.remove(listener)
        self.usage.leave(listener.usage)
        listener.task.cancel()
        self._tasks.create_task(listener.transport.close())

    async def stop(self) -> None:
        """Send what waits and close the transports."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait({self._running})
        await asyncio.gather(*(listener.send() for listener in self._listeners if listener.changed))
        await asyncio.gather(*(listener.transport.close() for listener in self._listeners))

    def message(
        self,
        seq: int,
        since: int,
        pending: dict[int, bool] | None,
        first: list[FirstToken],
        finished: list[Finished],
        usage: list[RequestUsage],
        usage_from: int,
    ) -> EngineEvents:
        """The message with these changed keys (True: resident); a snapshot where `pending` is None."""
        facts, readings = self.facts, self.readings
        changed = pending or {}
        stored = readings.resident() if pending is None else [key for key, is_in in changed.items() if is_in]
        return EngineEvents(
            epoch=facts.epoch,
            born_ms=facts.born_ms,
            seq=seq,
            snapshot=pending is None,
            since=since,
            at=self.changes,
            stored=stored,
            tokens=[depth * facts.block_tokens for depth in readings.depths(stored)],
            evicted=[key for key, is_in in changed.items() if not is_in],
            first=first,
            finished=finished,
            usage=usage,
            usage_from=usage_from,
            load=readings.load(),
            capacity_tokens=facts.capacity_tokens,
            block_tokens=facts.block_tokens,
            handoffs=readings.handoffs(),
            adapters=readings.adapters(),
            adapter_slots=facts.adapter_slots,
        )


class _Listener:
    """Changes that one listener has not received yet."""

    def __init__(self, transport: Transport, publisher: Publisher, *, edge: str = "", found: bool = False) -> None:
        """`edge` is the id of its edge, empty where that is unknown; `found`: another edge named it."""
        self.transport = transport
        self.edge = edge
        self.found = found
        self.named_s = 0.0
        """Time, in seconds, at which an edge last named this router as another edge."""
        self.task: asyncio.Task[None] | None = None
        self._publisher = publisher
        self._pending: dict[int, bool] = {}
        self.first: list[FirstToken] = []
        self.finished: list[Finished] = []
        self.usage = publisher.usage.read()
        self._seq = 0
        self._published = 0
        """Changes that were sent to it."""
        self._snapshot = True
        self._interval_s = INTERVAL_S
        self._wanted = asyncio.Event()
        self._logged = ""
        self.snapshots = 0
        transport.on_hang_up(self.resync)

    @property
    def changed(self) -> bool:
        """True while events wait to be sent."""
        return bool(self._pending or self.first or self.finished or self.usage.waits)

    def wake(self) -> None:
        """Send soon; drop the oldest requests beyond the limit."""
        for waiting in (self.first, self.finished):
            if len(waiting) > MAX_PENDING_REQUESTS:
                del waiting[: len(waiting) // 2]
        self._wanted.set()

    def resync(self) -> None:
        """Send a snapshot at once, since the listener may have lost everything."""
        self._need_snapshot()
        self._wanted.set()

    def keys(self, stored: Sequence[int], evicted: Sequence[int]) -> None:
        """Collect changed keys, unless a snapshot comes next anyway."""
        if not self._snapshot:
            pending = self._pending
            pending.update(dict.fromkeys(stored, True))
            pending.update(dict.fromkeys(evicted, False))
            if len(pending) > MAX_PENDING_KEYS:
                self._need_snapshot()
        self._wanted.set()

    async def run(self) -> None:
        """Send until cancelled: when something changed, at the latest after a heartbeat."""
        backoff = Backoff(BACKOFF_FIRST_S, BACKOFF_MAX_S)
        self._wanted.set()
        while True:
            try:
                async with asyncio.timeout(HEARTBEAT_S):
                    await self._wanted.wait()
            except TimeoutError:
                pass
            if not self._snapshot:
                await asyncio.sleep(self._interval_s)
            self._wanted.clear()
            if await self.send():
                backoff.reset()
                if self._snapshot or self.usage.waits:
                    self._wanted.set()
            else:
                await backoff.pause()
                self._wanted.set()

    async def send(self) -> bool:
        """Send what waits. False when it was not accepted: then a snapshot is next."""
        publisher = self._publisher
        first, self.first = self.first, []
        finished, self.finished = self.finished, []
        pending, self._pending = self._pending, {}
        snapshot, self._snapshot = self._snapshot, False
        since, changed = (0, None) if snapshot else (self._published, pending)
        if snapshot:
            self.usage.again()
        usage_from, usage = self.usage.take()
        message = publisher.message(self._seq, since, changed, first, finished, usage, usage_from)
        self._seq += 1
        self._published = publisher.changes
        self.snapshots += snapshot
        try:
            answer = await self.transport.send(message)
        except TransportError as error:
            self._log(str(error), error.expected)
            self._need_snapshot()
            self.first = (first + self.first)[-MAX_PENDING_REQUESTS:]
            self.finished = (finished + self.finished)[-MAX_PENDING_REQUESTS:]
            return False
        self._log("", False)
        self._interval_s = answer.interval_ms / 1000
        self.usage.kept(answer.usage_kept)
        if answer.resync:
            self._need_snapshot()
        publisher.follow_edges(self, answer, asyncio.get_running_loop().time())
        return True

    def _need_snapshot(self) -> None:
        self._snapshot = True
        self._pending = {}

    def _log(self, error: str, expected: bool) -> None:
        """Log what changed: the first failure, and that the listener follows again."""
        if error != self._logged and not expected:
            log.log(logging.WARNING if error else logging.INFO, "%s: %s", self.transport, error or "follows")
        self._logged = error
