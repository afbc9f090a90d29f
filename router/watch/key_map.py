"""Keeps HAProxy's map of API keys, and its file, as the table of keys has it.

`KeySync` writes changes when they happen, and everything to a HAProxy that is new: after a start, a reload or a crash.
HAProxy away is expected: the changes are kept, and the next try writes them all. The file is for a HAProxy that starts
while no router can tell it the keys.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import structlog

from pointsman.haproxy.errors import HAProxyError
from pointsman.haproxy.key_map import KeyMap, write_map
from pointsman.haproxy.runtime_api import RuntimeAPI
from pointsman.router.process.clock import Clock
from pointsman.router.process.readiness import Readiness
from pointsman.router.tenancy.keys import KeyTable

RETRY_S = 0.2
LONGEST_WAIT_S = 0.5
"""Between two looks at which keys expired: less than the second within which a change is to be in force."""

SETTLE_S = 0.5
"""Longest wait of a call that changed a key; what is not in force by then follows."""

CONDITION = "API keys"

log = structlog.get_logger(__name__)


class KeySync:
    """The loop between the table of keys and HAProxy."""

    def __init__(self, keys: KeyTable, api: RuntimeAPI, *, file: str, readiness: Readiness, wall: Clock) -> None:
        """file: path of the map's file as this process sees it; empty: the file is left alone."""
        self._keys = keys
        self._api = api
        self._file = Path(file) if file else None
        self._readiness = readiness
        self._wall = wall
        self._wake = asyncio.Event()
        self._map: KeyMap | None = None
        """None where HAProxy requires no keys."""
        self._whole = False
        """The HAProxy of this moment has not been told all keys."""
        self._unwritten = True
        self._settled = asyncio.Event()
        self._why = ""
        self.errors = 0
        """Tries that HAProxy or the disk did not take."""
        keys.on_changed.append(lambda key_id: self._changed())

    def _changed(self) -> None:
        self._settled.clear()
        self._wake.set()

    @property
    def required(self) -> bool:
        """Whether HAProxy requires these keys; False while no HAProxy was met."""
        return self._map is not None

    def worker_began(self, keys_map: str) -> None:
        """A HAProxy worker was met for the first time.

        keys_map: path of its map of keys; empty where it requires none.
        """
        self._map = KeyMap(self._api, keys_map) if keys_map else None
        self._whole = self._map is not None
        self._changed()

    async def run(self) -> None:
        """Writes what changes until cancelled."""
        while True:
            wait_s = RETRY_S if not await self.step() else self._next_wait_s()
            try:
                async with asyncio.timeout(wait_s):
                    await self._wake.wait()
            except TimeoutError:
                pass

    async def step(self) -> bool:
        """Write what changed since the last call; whether all of it is written."""
        self._wake.clear()
        self._keys.step()
        changes = self._keys.take_changes()
        self._unwritten = self._unwritten or bool(changes)
        told = await self._tell(changes)
        if not (await self._write() and told):
            return False
        self._worked()
        return True

    async def settled(self) -> bool:
        """Wait until all changes made so far are in force at this edge's HAProxy; False if that takes too long."""
        try:
            async with asyncio.timeout(SETTLE_S):
                await self._settled.wait()
        except TimeoutError:
            return False
        return True

    async def _tell(self, changes: dict[str, str | None]) -> bool:
        if self._map is None or not (self._whole or changes):
            return True
        try:
            if self._whole:
                await self._map.replace(dict(self._keys.owners))
            else:
                await self._map.change(changes)
        except HAProxyError as error:
            # Some changes may have arrived: all are compared again.
            self._whole = True
            self._failed(f"HAProxy does not take them: {error}")
            return False
        if self._whole:
            log.info("HAProxy knows the API keys", keys=len(self._keys.owners))
        self._whole = False
        return True

    async def _write(self) -> bool:
        if self._file is None or not self._unwritten:
            return True
        entries = dict(self._keys.owners)
        self._unwritten = False
        try:
            await asyncio.to_thread(write_map, self._file, entries)
        except OSError as error:
            self._unwritten = True
            self._failed(f"edge.keys_file: {self._file}: {error.strerror}")
            return False
        return True

    def _failed(self, why: str) -> None:
        self.errors += 1
        if self._why != why:
            log.warning("API keys not up to date", error=why)
        self._why = why
        self._readiness.degraded(CONDITION, why)

    def _worked(self) -> None:
        self._why = ""
        self._readiness.restored(CONDITION)
        if not self._wake.is_set():
            self._settled.set()

    def _next_wait_s(self) -> float | None:
        ends_s = self._keys.next_end_s
        return None if ends_s is None else min(LONGEST_WAIT_S, max(0.0, ends_s - self._wall()))
