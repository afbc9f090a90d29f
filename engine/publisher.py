"""Tells routers what changes in an engine: prefix keys, first tokens, ends of requests, load.

`Publisher` gathers what it is told and posts it to `POST /v1/replicas/{id}/events` of every router, at most one message
at a time to each, as often as that router asks for (20 ms while its policy goes by it). Messages are numbered for each
router apart; the first one, and each one after something was lost on the way, is a snapshot of all that is resident. So
a router that was away, restarted or overrun is right again with the next message, and nothing here grows while it is
away: what waits is bounded, and beyond the bound the snapshot says it better.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

import httpx
import msgspec

from router.state.schema import MSGPACK_TYPE, EngineEvents, EngineLoad, EventsAnswer, Finished, FirstToken

log = logging.getLogger("pointsman.publisher")

INTERVAL_S = 0.02
"""How long changes are gathered until a router has asked for something else."""

HEARTBEAT_S = 5.0
"""Without changes a message goes out this often: a router that came back empty learns what is resident."""

BACKOFF_MAX_S = 2.0
TIMEOUT_S = 2.0
MAX_PENDING_KEYS = 65_536
"""Changes waiting for one router. Beyond, it gets a snapshot."""

MAX_PENDING_REQUESTS = 16_384
"""First tokens, and ends, waiting for one router. Beyond, the oldest go: reservations end without them too."""


class Publisher:
    """One engine's voice. Tell it through the four methods; run `run` as a task."""

    def __init__(
        self,
        admin_urls: Sequence[str],
        token: str,
        replica_id: str,
        *,
        epoch: str,
        capacity_tokens: int,
        resident: Callable[[], list[int]],
        load: Callable[[], EngineLoad],
    ) -> None:
        """`epoch` names this life of the engine; `resident` and `load` are asked when a message is made."""
        # Environment proxies are for the outside world, not for a control plane next door.
        self._client = httpx.AsyncClient(
            headers={"content-type": MSGPACK_TYPE} | ({"authorization": f"Bearer {token}"} if token else {}),
            timeout=TIMEOUT_S,
            trust_env=False,
        )
        self._targets = [_Target(f"{admin.rstrip('/')}/v1/replicas/{replica_id}/events", self) for admin in admin_urls]
        self.epoch = epoch
        self.capacity_tokens = capacity_tokens
        self.resident = resident
        self.load = load
        self.client = self._client

    @property
    def snapshots(self) -> int:
        """Snapshots sent, to all routers."""
        return sum(target.snapshots for target in self._targets)

    def keys(self, stored: Sequence[int], evicted: Sequence[int]) -> None:
        """Prefix keys became resident, and no longer are."""
        if stored or evicted:
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
        """Posts until cancelled."""
        async with asyncio.TaskGroup() as group:
            for target in self._targets:
                group.create_task(target.run(), name=f"publish {target.url}")

    async def close(self) -> None:
        """After `run` was cancelled: last words, then silence."""
        await asyncio.gather(*(target.post() for target in self._targets if target.changed))
        await self._client.aclose()


class _Target:
    """What one router does not know yet."""

    def __init__(self, url: str, publisher: Publisher) -> None:
        self.url = url
        self._publisher = publisher
        self._pending: dict[int, bool] = {}
        self.first: list[FirstToken] = []
        self.finished: list[Finished] = []
        self._seq = 0
        self._snapshot = True
        self._interval_s = INTERVAL_S
        self._wanted = asyncio.Event()
        self._said = ""
        self.snapshots = 0

    @property
    def changed(self) -> bool:
        """Whether there is anything to say."""
        return bool(self._pending or self.first or self.finished)

    def wake(self) -> None:
        for waiting in (self.first, self.finished):
            if len(waiting) > MAX_PENDING_REQUESTS:
                del waiting[: len(waiting) // 2]
        self._wanted.set()

    def keys(self, stored: Sequence[int], evicted: Sequence[int]) -> None:
        if not self._snapshot:
            pending = self._pending
            pending.update(dict.fromkeys(stored, True))
            pending.update(dict.fromkeys(evicted, False))
            if len(pending) > MAX_PENDING_KEYS:
                pending.clear()
                self._snapshot = True
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
            if await self.post():
                failures = 0
                if self._snapshot:
                    self._wanted.set()
            else:
                await asyncio.sleep(min(BACKOFF_MAX_S, 0.05 * 2 ** min(failures, 10)))
                failures += 1
                self._wanted.set()

    async def post(self) -> bool:
        """Sends what waits; False when the router did not take it, and then it gets a snapshot next."""
        publisher = self._publisher
        first, self.first = self.first, []
        finished, self.finished = self.finished, []
        pending, self._pending = self._pending, {}
        snapshot, self._snapshot = self._snapshot, False
        message = EngineEvents(
            epoch=publisher.epoch,
            seq=self._seq,
            snapshot=snapshot,
            stored=publisher.resident() if snapshot else [key for key, is_in in pending.items() if is_in],
            evicted=[] if snapshot else [key for key, is_in in pending.items() if not is_in],
            first=first,
            finished=finished,
            load=publisher.load(),
            capacity_tokens=publisher.capacity_tokens,
        )
        self._seq += 1
        self.snapshots += snapshot
        try:
            response = await publisher.client.post(self.url, content=msgspec.msgpack.encode(message))
            said = "" if response.is_success else f"answered {response.status_code}: {response.text[:200]}"
            if not said:
                answer = msgspec.json.decode(response.content, type=EventsAnswer)
        except (httpx.HTTPError, msgspec.MsgspecError) as error:
            said = f"cannot be told: {type(error).__name__}"
        # A replica that is not registered yet is expected at every start.
        if said != self._said and not said.startswith("answered 404"):
            log.log(logging.WARNING if said else logging.INFO, "%s: %s", self.url, said or "follows")
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
