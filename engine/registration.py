"""How a replica tells routers that it is there: PUT every heartbeat, DELETE on leaving.

A registration is a lease of `ttl_s`; each heartbeat renews it at every admin URL, independently, so that a router that
is away or comes back empty does not disturb the others. While a router is away, tries are spaced by a backoff that ends
at the heartbeat's own interval. What changes is logged, once; tries are not.

Where the engine's reports reach a router over a connection that stays open, they renew the lease as well, at a fraction
of the cost. The registration is then PUT every `CONFIRM_S` only, and at the next heartbeat when it has changed or the
reports no longer renew the lease.

A replica says when its life began, and a router that has a later life of it refuses the earlier one (409): it must not
go on under an id that is another's, and whoever runs it is told by `superseded`.

Used by simulated replicas and by replicas that run vLLM.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from itertools import zip_longest
from typing import Any, Protocol

import httpx

from pointsman.contract.registration import Role
from pointsman.contract.tls import tls_for
from pointsman.engine.transport import RENEWED_FOR_S

log = logging.getLogger("pointsman.registration")

TIMEOUT_S = 2.0
"""For one call; the admin API answers in milliseconds or is away."""
BACKOFF_FIRST_S = 0.1

CONFIRM_S = 30.0
"""Between two PUTs while reports renew the lease: what somebody else changed of the registration is put right then."""

# How it stands with one router, besides the status of a refusal.
REGISTERED = 200
AWAY = -1
SUPERSEDED = 409


class Renewal(Protocol):
    """Something besides PUT that may renew the lease at one router."""

    @property
    def renews(self) -> bool:
        """Whether it does at this moment, often enough for the lease."""


class Registration:
    """One replica's registration with any number of routers. Run `run` as a task; cancel it, then `leave`."""

    def __init__(
        self,
        admin_urls: Sequence[str],
        token: str,
        replica_id: str,
        url: str,
        model: str,
        *,
        heartbeat_s: float = 2.0,
        ttl_s: float = 10.0,
        pool: str = "",
        role: Role = Role.BOTH,
        adapters: Sequence[str] = (),
        born_ms: int = 0,
        renewals: Sequence[Renewal] = (),
    ) -> None:
        """`born_ms` is when this life of the replica began, since 1970; 0 where nobody tells lives apart. `renewals`
        are in the order of `admin_urls`; without them every heartbeat is a PUT."""
        self._replica_id = replica_id
        self._life = {"born_ms": str(born_ms)} if born_ms else {}
        self._body: dict[str, Any] = {"url": url, "model": model, "ttl_s": ttl_s}
        if pool:
            self._body["pool"] = pool
        if role is not Role.BOTH:
            self._body["role"] = role.value
        if born_ms:
            self._body["born_ms"] = born_ms
        self.offer(adapters)
        self._heartbeat_s = heartbeat_s
        self._targets = [f"{admin.rstrip('/')}/v1/replicas/{replica_id}" for admin in admin_urls]
        # Environment proxies are for the outside world, not for a control plane next door.
        self._client = httpx.AsyncClient(
            headers={"authorization": f"Bearer {token}"} if token else {},
            timeout=TIMEOUT_S,
            trust_env=False,
            verify=tls_for(*self._targets),
        )
        # Long enough that a PUT follows in time when reports stop.
        self._renewals = renewals if ttl_s > RENEWED_FOR_S + heartbeat_s else ()
        self._registered: set[str] = set()
        self._changed = asyncio.Event()
        self._superseded = False

    @property
    def superseded(self) -> bool:
        """Whether a router said that it has a later life of this replica."""
        return self._superseded

    @property
    def registered(self) -> int:
        """How many routers accepted the last heartbeat."""
        return len(self._registered)

    async def run(self) -> None:
        """Register and renew until cancelled."""
        async with asyncio.TaskGroup() as group:
            for target, renewal in zip_longest(self._targets, self._renewals):
                group.create_task(self._keep(target, renewal), name=f"register {target}")

    def offer(self, adapters: Sequence[str]) -> None:
        """From the next heartbeat on: the LoRA adapters that are served too."""
        if adapters:
            self._body["adapters"] = list(adapters)
        else:
            self._body.pop("adapters", None)

    async def wait_changed(self) -> None:
        """Until a router accepts the replica, refuses it, is away, where that is news."""
        self._changed.clear()
        await self._changed.wait()

    async def wait_registered(self) -> None:
        """Until every router has accepted the replica. No limit of its own: wrap it in `asyncio.timeout`."""
        while len(self._registered) < len(self._targets):
            await self.wait_changed()

    async def drain(self) -> bool:
        """Ask every router to send no more requests; the registration stays. Whether all of them heard."""
        return all(await asyncio.gather(*(self._say("POST", target, "/drain") for target in self._targets)))

    async def leave(self) -> None:
        """Withdraw everywhere and close. A router that is away forgets the replica when its lease ends."""
        self._registered.clear()
        await asyncio.gather(*(self._say("DELETE", target) for target in self._targets))
        await self._client.aclose()

    async def _keep(self, target: str, renewal: Renewal | None) -> None:
        """Heartbeats to one router, for ever."""
        failures = 0
        before = 0
        sent, sent_s = self._body, 0.0
        while True:
            renewed = before == REGISTERED and renewal is not None and renewal.renews
            if renewed and sent == self._body and time.monotonic() - sent_s < CONFIRM_S:
                await asyncio.sleep(self._heartbeat_s)
                continue
            sent, sent_s = dict(self._body), time.monotonic()
            try:
                response = await self._client.put(target, json=sent)
                status, detail = response.status_code, response.text[:200]
            except httpx.HTTPError as error:
                status, detail = AWAY, type(error).__name__
            if 200 <= status < 300:
                self._registered.add(target)
                delay_s = self._heartbeat_s
                failures = 0
                status = REGISTERED
            else:
                self._registered.discard(target)
                self._superseded = self._superseded or status == SUPERSEDED
                delay_s = min(self._heartbeat_s, BACKOFF_FIRST_S * 2 ** min(failures, 20))
                failures += 1
            if status != before:
                before = status
                self._changed.set()
                if status == REGISTERED:
                    log.info("replica %s: %s: registered", self._replica_id, target)
                elif status == AWAY:
                    log.warning("replica %s: %s: cannot be reached: %s", self._replica_id, target, detail)
                else:
                    log.warning("replica %s: %s: answered %d: %s", self._replica_id, target, status, detail)
            await asyncio.sleep(delay_s)

    async def _say(self, method: str, target: str, suffix: str = "") -> bool:
        try:
            response = await self._client.request(method, target + suffix, params=self._life)
        except httpx.HTTPError as error:
            log.warning("replica %s: %s %s: %s", self._replica_id, method, target + suffix, type(error).__name__)
            return False
        if not response.is_success and response.status_code not in (404, SUPERSEDED):
            log.warning("replica %s: %s %s: %s", self._replica_id, method, target + suffix, response.status_code)
            return False
        return True
