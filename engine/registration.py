"""The registration of one replica with its routers: PUT every heartbeat, DELETE on withdrawing.

A registration is a lease of `ttl_s`; each heartbeat renews it at every admin URL, independently, so that a router that
is away or comes back empty does not disturb the others. While a router is away, the pauses between tries grow up to
the heartbeat's own interval. Changes are logged, once; tries are not.

Where the engine's events reach a router over a connection that stays open, they renew the lease as well, at a fraction
of the cost. The registration is then PUT every `CONFIRM_S` only, and at the next heartbeat when it has changed or the
events no longer renew the lease.

A registration carries the start time of the replica's incarnation. A router that has a later incarnation refuses the
earlier one (409), which must stop serving under the id: `superseded` says so.

Used by simulated replicas and by replicas that run vLLM.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from itertools import zip_longest
from typing import Protocol

import httpx
import msgspec

from pointsman.contract.backoff import Backoff
from pointsman.contract.events import JSON_TYPE
from pointsman.contract.registration import Registration
from pointsman.contract.tls import tls_for
from pointsman.engine.transport import RENEWED_FOR_S

log = logging.getLogger("pointsman.registration")

TIMEOUT_S = 2.0
"""For one call; the admin API answers in milliseconds or is away."""
BACKOFF_FIRST_S = 0.1

CONFIRM_S = 30.0
"""Between two PUTs while events renew the lease: the PUT restores a registration that somebody else changed."""

# How the registration stands with one router, besides the status of a refusal.
REGISTERED = 200
AWAY = -1
SUPERSEDED = 409


class Renewal(Protocol):
    """Something besides PUT that may renew the lease at one router."""

    @property
    def renews(self) -> bool:
        """True while the replica's lease is renewed this way, often enough to last."""


class Registrar:
    """Registers one replica with any number of routers. Begins by `start`, ends by `withdraw`."""

    def __init__(
        self,
        admin_urls: Sequence[str],
        token: str,
        replica_id: str,
        registration: Registration,
        *,
        heartbeat_s: float = 2.0,
        renewals: Sequence[Renewal] = (),
    ) -> None:
        """Prepare a registration that has a lease (`ttl_s`).

        `token`: the admin APIs' bearer token; empty for none.
        `renewals`: in the order of `admin_urls`; without them every heartbeat is a PUT.
        """
        self._replica_id = replica_id
        self._registration = registration
        self._incarnation = {"born_ms": str(registration.born_ms)} if registration.born_ms else {}
        self._heartbeat_s = heartbeat_s
        self._targets = [f"{admin.rstrip('/')}/v1/replicas/{replica_id}" for admin in admin_urls]
        # Environment proxies are for the outside world, not for a control plane next door.
        self._client = httpx.AsyncClient(
            headers={"authorization": f"Bearer {token}"} if token else {},
            timeout=TIMEOUT_S,
            trust_env=False,
            verify=tls_for(*self._targets),
        )
        # Long enough that a PUT follows in time when the events stop.
        lasts = (registration.ttl_s or 0.0) > RENEWED_FOR_S + heartbeat_s
        self._renewals = renewals if lasts else ()
        self._registered: set[str] = set()
        self._changed = asyncio.Event()
        self.superseded = False
        """Whether a router has a later incarnation of this replica."""
        self._running: asyncio.Task[None] | None = None

    def start(self) -> asyncio.Task[None]:
        """Begin to register and renew; the task ends by `withdraw` alone."""
        self._running = asyncio.create_task(self.run(), name="register")
        return self._running

    async def run(self) -> None:
        """Register and renew until cancelled."""
        async with asyncio.TaskGroup() as group:
            for target, renewal in zip_longest(self._targets, self._renewals):
                group.create_task(self._renew(target, renewal), name=f"register {target}")

    async def wait_registered(self) -> None:
        """Wait until every router has accepted the replica. No limit of its own: wrap it in `asyncio.timeout`."""
        while len(self._registered) < len(self._targets):
            self._changed.clear()
            await self._changed.wait()

    def set_adapters(self, adapters: Sequence[str]) -> None:
        """Name other LoRA adapters from the next heartbeat on."""
        self._registration = msgspec.structs.replace(self._registration, adapters=list(adapters))

    async def drain(self) -> bool:
        """Ask every router to send no more requests; the registration stays. Answers whether all of them accepted."""
        return all(await asyncio.gather(*(self._call("POST", target, "/drain") for target in self._targets)))

    async def withdraw(self) -> None:
        """Withdraw everywhere and close. A router that is away drops the replica when its lease ends."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait({self._running})
        self._registered.clear()
        await asyncio.gather(*(self._call("DELETE", target) for target in self._targets))
        await self._client.aclose()

    async def _renew(self, target: str, renewal: Renewal | None) -> None:
        """Send heartbeats to one router without end."""
        backoff = Backoff(BACKOFF_FIRST_S, self._heartbeat_s)
        status = 0
        sent, sent_s = self._registration, 0.0
        while True:
            renewed = status == REGISTERED and renewal is not None and renewal.renews
            if renewed and sent == self._registration and time.monotonic() - sent_s < CONFIRM_S:
                await asyncio.sleep(self._heartbeat_s)
                continue
            sent, sent_s = self._registration, time.monotonic()
            before, (status, detail) = status, await self._put(target, sent)
            if status != before:
                self._log(target, status, detail)
            if status == REGISTERED:
                self._registered.add(target)
                self._changed.set()
                backoff.reset()
                await asyncio.sleep(self._heartbeat_s)
            else:
                self._registered.discard(target)
                self.superseded = self.superseded or status == SUPERSEDED
                await asyncio.sleep(min(self._heartbeat_s, backoff.take()))

    async def _put(self, target: str, registration: Registration) -> tuple[int, str]:
        """The status of one PUT, and what a refusal or a failed connection says."""
        body = msgspec.json.encode(registration)
        try:
            response = await self._client.put(target, content=body, headers={"content-type": JSON_TYPE})
        except httpx.HTTPError as error:
            return AWAY, type(error).__name__
        return (REGISTERED, "") if response.is_success else (response.status_code, response.text[:200])

    def _log(self, target: str, status: int, detail: str) -> None:
        if status == REGISTERED:
            log.info("replica %s: %s: registered", self._replica_id, target)
        elif status == AWAY:
            log.warning("replica %s: %s: cannot be reached: %s", self._replica_id, target, detail)
        else:
            log.warning("replica %s: %s: answered %d: %s", self._replica_id, target, status, detail)

    async def _call(self, method: str, target: str, suffix: str = "") -> bool:
        try:
            response = await self._client.request(method, target + suffix, params=self._incarnation)
        except httpx.HTTPError as error:
            log.warning("replica %s: %s %s: %s", self._replica_id, method, target + suffix, type(error).__name__)
            return False
        if not response.is_success and response.status_code not in (404, SUPERSEDED):
            log.warning("replica %s: %s %s: %s", self._replica_id, method, target + suffix, response.status_code)
            return False
        return True
