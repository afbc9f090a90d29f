"""The driver's client of the routers' admin API: the lease of its pools, dead replicas, and which replicas are up.

The lease is renewed at every router independently, so one that is away or starts again disturbs no other. Replicas
register themselves; no request of a client depends on this module.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable, Sequence

import httpx
import msgspec

from pointsman.contract.events import JSON_TYPE
from pointsman.contract.pools import FleetLease
from pointsman.contract.tls import tls_for

log = logging.getLogger("pointsman.fleet")

TIMEOUT_S = 2.0
"""For one call; the admin API answers in milliseconds or is away."""

ROUTED_S = 30.0
"""Seconds until a ready replica gets requests: some health checks. After that a roll continues without knowing."""

ROUTED_POLL_S = 0.1


class AdminClient:
    """The admin APIs of one fleet's routers. `keep_lease` runs as a task; `withdraw` ends the lease and closes."""

    def __init__(self, fleet: str, admin_urls: Sequence[str], token: str, *, heartbeat_s: float) -> None:
        self._admins = [url.rstrip("/") for url in admin_urls]
        self._path = f"/v1/fleets/{fleet}"
        self._fleet = fleet
        self._heartbeat_s = heartbeat_s
        self._renewals = {admin: asyncio.Event() for admin in self._admins}
        authorization = {"authorization": f"Bearer {token}"} if token else {}
        self._client = httpx.AsyncClient(
            headers={"content-type": JSON_TYPE} | authorization,
            timeout=TIMEOUT_S,
            trust_env=False,
            verify=tls_for(*self._admins),
        )

    def renew_now(self) -> None:
        """Renew the lease at once: something in it changed."""
        for event in self._renewals.values():
            event.set()

    async def keep_lease(self, lease: Callable[[], FleetLease]) -> None:
        """Renew the lease until cancelled; `lease` gives its content each time."""
        async with asyncio.TaskGroup() as group:
            for admin in self._admins:
                group.create_task(self._keep(admin, lease))

    async def withdraw(self) -> None:
        """Give the pools up everywhere and close; a router that is away drops them when the lease ends."""
        await asyncio.gather(*(self._delete(admin + self._path) for admin in self._admins))
        await self._client.aclose()

    async def deregister(self, replicas: Iterable[str]) -> None:
        """Remove dead replicas from every router, which a failed health check would do later."""
        await asyncio.gather(*(self._delete(f"{admin}/v1/replicas/{id}") for admin in self._admins for id in replicas))

    async def wait_routed(self, replicas: Iterable[str]) -> None:
        """Wait until every router that answers has these replicas up, at most `ROUTED_S`."""
        wanted = list(replicas)
        try:
            async with asyncio.timeout(ROUTED_S):
                await asyncio.gather(*(self._wait_up(admin, replica) for admin in self._admins for replica in wanted))
        except TimeoutError:
            log.warning("fleet %s: %s: not routed to after %g s", self._fleet, ", ".join(wanted), ROUTED_S)

    async def _delete(self, url: str) -> None:
        with contextlib.suppress(httpx.HTTPError):
            await self._client.delete(url)

    async def _wait_up(self, admin: str, replica: str) -> None:
        while True:
            try:
                answer = await self._client.get(f"{admin}/v1/replicas/{replica}")
            except httpx.HTTPError:
                return  # Away: HAProxy checks the replica by itself.
            if answer.is_success and answer.json().get("state") == "up":
                return
            await asyncio.sleep(ROUTED_POLL_S)

    async def _keep(self, admin: str, lease: Callable[[], FleetLease]) -> None:
        logged: int | None = None
        while True:
            self._renewals[admin].clear()
            try:
                answer = await self._client.put(admin + self._path, content=msgspec.json.encode(lease()))
                status, detail = answer.status_code // 100, answer.text[:200]
            except httpx.HTTPError as error:
                status, detail = 0, type(error).__name__
            if status != logged:
                logged = status
                if status == 2:
                    log.info("fleet %s: %s takes its pools", self._fleet, admin)
                else:
                    log.warning("fleet %s: %s: %s", self._fleet, admin, detail)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._heartbeat_s):
                    await self._renewals[admin].wait()
