"""Tells routers what changes in an engine: prefix keys, first tokens, ends of requests, load.

`Publisher` gathers what it is told and sends it through every one of its transports (engine/transport.py), one for each
listener, at most one message at a time, as often as that listener asks for (20 ms while a router's policy goes by it).
Messages are numbered for each listener apart; the first one, and each one after something was lost on the way, is a
snapshot of all that is resident. So a router that was away, restarted or overrun is right again with the next message,
and nothing here grows while it is away: what waits is bounded, and beyond the bound the snapshot says it better.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from pointsman.contract.events import EngineEvents, EngineLoad, Finished, FirstToken, Handoffs
from pointsman.engine.transport import Transport, TransportError

log = logging.getLogger("pointsman.publisher")

INTERVAL_S = 0.02
"""How long changes are gathered until a listener has asked for something else."""

HEARTBEAT_S = 2.5
"""Without changes a message goes out this often: it renews the replica's lease, by default of 10 s, and a router that
came back empty learns what is resident, where the transport did not see it go."""

BACKOFF_MAX_S = 1.0
"""Between tries to reach a listener that is away: about so long after it is back it knows what is resident."""

MAX_PENDING_KEYS = 65_536
"""Changes waiting for one listener. Beyond, it gets a snapshot."""

MAX_PENDING_REQUESTS = 16_384
"""First tokens, and ends, waiting for one listener. Beyond, the oldest go: reservations end without them too."""


class Publisher:
    """One engine's voice. Tell it through the three methods; run `run` as a task."""

    def __init__(
        self,
        transports: Sequence[Transport],
        *,
        epoch: str,
        capacity_tokens: int,
        born_ms: int = 0,
        resident: Callable[[], list[int]],
        load: Callable[[], EngineLoad],
        block_tokens: int = 0,
        depths: Callable[[Sequence[int]], list[int]] = lambda keys: [],
        handoffs: Callable[[], Handoffs | None] = lambda: None,
        adapters: Callable[[], list[str] | None] = lambda: None,
        adapter_slots: int = 0,
    ) -> None:
        """`epoch` names this life of the engine, which began `born_ms` after 1970 (0: unsaid), caches `block_tokens`
        at a time (0: unsaid) and holds `adapter_slots` LoRA adapters. `resident`, `depths` (blocks in the prefixes of
        keys), `load`, `handoffs` and `adapters` (those loaded) are asked when a message is made. Closes the transports
        when it is closed."""
        self._targets = [_Target(transport, self) for transport in transports]
        self.epoch = epoch
        self.born_ms = born_ms
        self.capacity_tokens = capacity_tokens
        self.block_tokens = block_tokens
        self.resident = resident
        self.depths = depths
        self.load = load
        self.handoffs = handoffs
        self.adapters = adapters
        self.adapter_slots = adapter_slots
        self.changes = 1
        """Of what is resident, in this life; the empty cache it began with is the first."""

    @property
    def snapshots(self) -> int:
        """Snapshots sent, to all listeners."""
        return sum(target.snapshots for target in self._targets)

    def keys(self, stored: Sequence[int], evicted: Sequence[int]) -> None:
        """Prefix keys became resident, and no longer are."""
        if stored or evicted:
            self.changes += 1
            for target in self._targets:
                target.keys(stored, evicted)

    def first_token(self, first: FirstToken) -> None:
        for target in self._targets:
            target.first.append(first)
            target.wake()

    def finished(self, finished: Finished) -> None:
        for target in self._targets:
            target.finished.append(finished)
            target.wake()

    async def run(self) -> None:
        """Sends until cancelled."""
        async with asyncio.TaskGroup() as group:
            for target in self._targets:
                group.create_task(target.run(), name=f"publish to {target.transport}")

    async def close(self) -> None:
        """After `run` was cancelled: last words, then silence."""
        await asyncio.gather(*(target.send() for target in self._targets if target.changed))
        await asyncio.gather(*(target.transport.close() for target in self._targets))


class _Target:
    """What one listener does not know yet."""

    def __init__(self, transport: Transport, publisher: Publisher) -> None:
        self.transport = transport
        self._publisher = publisher
        self._pending: dict[int, bool] = {}
        self.first: list[FirstToken] = []
        self.finished: list[Finished] = []
        self._seq = 0
        self._told = 0
        """Changes it knows of."""
        self._snapshot = True
        self._interval_s = INTERVAL_S
        self._wanted = asyncio.Event()
        self._said = ""
        self.snapshots = 0
        transport.on_hang_up(self.begin_again)

    @property
    def changed(self) -> bool:
        """Whether there is anything to say."""
        return bool(self._pending or self.first or self.finished)

    def wake(self) -> None:
        for waiting in (self.first, self.finished):
            if len(waiting) > MAX_PENDING_REQUESTS:
                del waiting[: len(waiting) // 2]
        self._wanted.set()

    def begin_again(self) -> None:
        """The listener may know nothing any more: it gets a snapshot at once, and as soon as it is back."""
        self._snapshot = True
        self._pending = {}
        self._wanted.set()

    def keys(self, stored: Sequence[int], evicted: Sequence[int]) -> None:
        if not self._snapshot:
            pending = self._pending
            pending.update(dict.fromkeys(stored, True))
            pending.update(dict.fromkeys(evicted, False))
            if len(pending) > MAX_PENDING_KEYS:
                self.begin_again()
        self._wanted.set()

    async def run(self) -> None:
        failures = 0
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
                failures = 0
                if self._snapshot:
                    self._wanted.set()
            else:
                await asyncio.sleep(min(BACKOFF_MAX_S, 0.05 * 2 ** min(failures, 10)))
                failures += 1
                self._wanted.set()

    async def send(self) -> bool:
        """Sends what waits; False when it was not taken, and then a snapshot is next."""
        publisher = self._publisher
        first, self.first = self.first, []
        finished, self.finished = self.finished, []
        pending, self._pending = self._pending, {}
        snapshot, self._snapshot = self._snapshot, False
        stored = publisher.resident() if snapshot else [key for key, is_in in pending.items() if is_in]
        message = EngineEvents(
            epoch=publisher.epoch,
            born_ms=publisher.born_ms,
            seq=self._seq,
            snapshot=snapshot,
            since=0 if snapshot else self._told,
            at=publisher.changes,
            stored=stored,
            tokens=[depth * publisher.block_tokens for depth in publisher.depths(stored)],
            evicted=[] if snapshot else [key for key, is_in in pending.items() if not is_in],
            first=first,
            finished=finished,
            load=publisher.load(),
            capacity_tokens=publisher.capacity_tokens,
            block_tokens=publisher.block_tokens,
            handoffs=publisher.handoffs(),
            adapters=publisher.adapters(),
            adapter_slots=publisher.adapter_slots,
        )
        self._seq += 1
        self._told = publisher.changes
        self.snapshots += snapshot
        said, expected = "", False
        try:
            answer = await self.transport.send(message)
        except TransportError as error:
            said, expected = str(error), error.expected
        if said != self._said and not expected:
            log.log(logging.WARNING if said else logging.INFO, "%s: %s", self.transport, said or "follows")
        self._said = said
        if said:
            self._snapshot = True
            self._pending = {}
            self.first = (first + self.first)[-MAX_PENDING_REQUESTS:]
            self.finished = (finished + self.finished)[-MAX_PENDING_REQUESTS:]
            return False
        self._interval_s = answer.interval_ms / 1000
        if answer.resync:
            self._snapshot = True
            self._pending = {}
        return True
